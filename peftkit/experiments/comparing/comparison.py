"""Dataclasses that hold the content of compare.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from peftkit.metrics.metric import Metric
from peftkit.parts import records
from peftkit.parts.records import IF_SET

FILE = "compare.json"
Role = Literal["baseline", "method", "probe"]
Megabytes = dict[str, float | None]
"""`training`, `evaluation` or `merging` -> peak memory in MB; None if it was not measured."""


@dataclass(frozen=True)
class Rate:
    """A learning rate and the result of its trial on the validation split."""

    learning_rate: float
    value: float | None
    """The best validation score; None if the trial failed."""
    loss: float | None = None
    best_step: int | None = None
    num_steps: int | None = None
    failed: str = ""
    """Why the trial failed; empty if it did not."""
    died: bool = False
    """Whether the trial's process died; if so, another try may succeed."""
    too_high: bool = False
    """Whether the rate was best in the trials, but too high for a whole run."""


@dataclass(frozen=True)
class ValidationPoint:
    """A validation during training: its step, its score, and the training seconds before it."""

    step: int
    seconds: float
    value: float | None


@dataclass(frozen=True)
class LossPoint:
    """The training loss at a step."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """The results of one run, as compare.json records them."""

    failed: str = ""
    seed: int
    folder: str = ""
    """Path of the run's folder, relative to the comparison's folder."""
    score: float | None
    """Score on the test split after training."""
    interval: tuple[float, float] | None = None
    before: float | None = None
    """Score on the test split before training."""
    guessed: float | None = None
    """Test score of the best constant answer, such as the most frequent label; None if there is
    none."""
    best_step: int = 0
    num_steps: int = 0
    seconds_per_epoch: float = 0.0
    seconds_to_best: float = 0.0
    validations: tuple[ValidationPoint, ...] = ()
    history: tuple[LossPoint, ...] = ()
    peak_memory_mb: Megabytes = field(default_factory=dict)
    forgetting: float | None = None
    """Increase of the loss on general text by training, in nats per token."""
    kept_loss: float | None = None
    """Loss on general text after training, in nats per token; None if not measured."""
    extra: dict[str, float] = field(default_factory=dict)
    """Metric of generated texts -> its score on the test split."""
    trainable_parameters: int = 0
    total_parameters: int = 0
    adapter_bytes: int = 0
    precision: str = ""
    command: str = ""
    """The command that repeats the run."""
    seconds_taken: float = 0.0
    """Seconds of the whole run, from loading to saving."""


@dataclass(frozen=True)
class ProbeFit:
    """The result of the frozen probe; the only item of `Row.seeds` in the probe's row."""

    seed: None
    score: float
    interval: tuple[float, float]
    validations: tuple[ValidationPoint, ...]
    history: tuple[LossPoint, ...]
    command: str


@dataclass(frozen=True)
class Gap:
    """A difference of two scores, with its 95 % interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class JudgedGap(Gap):
    """A difference of two scores, with its interval and verdict."""

    verdict: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A row of the table: a method or the frozen probe. Values that the row lacks are None."""

    name: str
    method: str
    """The method's kind, such as `lora`."""
    role: Role
    precision: str
    """Precision of the base's weights, such as `float32` or `nf4`."""
    learning_rate: float | None = None
    regularization: float | None = field(default=None, metadata=IF_SET)
    """Inverse strength of the probe's L2 penalty; None for methods."""
    rates: tuple[Rate, ...] = ()
    """The learning rates that were tried, with the results of their trials."""
    seeds: tuple[SeedRun | ProbeFit, ...] = ()
    score: float | None = None
    """Mean test score over the seeds."""
    interval: tuple[float, float] | None = None
    """95 % confidence interval of `score`, over test rows and seeds."""
    difference_to_full: Gap | None = None
    verdict: str = ""
    """Verdict against full fine-tuning: `better`, `worse`, `equivalent` or `undecided`.
    `baseline` for full fine-tuning itself; `failed` if no run finished."""
    trained_out: bool | None = None
    """Whether the method had stopped improving before its last step; None if unknown."""
    failed: str = ""
    forgetting: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    """Metric of generated texts -> its mean score over the seeds."""
    command: str = ""
    """The command that repeats the first run, or the fit of the probe."""
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    seconds_per_epoch: float | None = None
    seconds_to_best: float | None = None
    seconds_to_99_of_full: float | None = None
    """Training seconds until the validation score is within 1 % of full fine-tuning's best score;
    None if one of the runs never reaches it."""
    peak_memory_mb: Megabytes | None = None
    difference_to_probe: JudgedGap | None = None

    def memory(self, kind: str) -> float | None:
        """Peak memory, in MB, of a stage: `training`, `evaluation` or `merging`."""
        return (self.peak_memory_mb or {}).get(kind)

    @property
    def runs(self) -> tuple[SeedRun, ...]:
        """The method's runs; empty for the probe."""
        return tuple(seed for seed in self.seeds if isinstance(seed, SeedRun))


@dataclass(frozen=True)
class Spent:
    """How long each method trains, and how many trials and seeds it gets."""

    num_epochs: int
    num_steps: int
    batch_size: int
    tokens: int
    trials: int
    """Number of learning rates tried."""
    search_steps: int
    """Number of optimizer steps of each trial."""
    num_seeds: int


@dataclass(frozen=True)
class SplitRows:
    """Number of rows in each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ComparedBase:
    """The compared methods' base: its name, its quantization and the digests of its files."""

    name: str
    hub_id: str = ""
    revision: str = ""
    quantization: str = "none"
    double_quant: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """Name of a file of the base -> SHA-256 of the file."""
    sha256: str = ""


@dataclass(frozen=True)
class Comparison:
    """The content of compare.json."""

    status: str
    """`unfinished`: some parts have not run yet. `incomplete`: all parts ran, but a part failed
    that can succeed when the comparison resumes. `finished`: nothing is left to run."""
    name: str
    created: str
    device: str
    versions: dict[str, str]
    base: ComparedBase
    task: str
    """The task's kind, such as `text-classification`."""
    data: str
    split_rows: SplitRows
    metric: Metric
    """The metric by which methods are compared."""
    margin: float
    """Largest difference of two scores that does not matter, in the metric's unit."""
    budget: Spent
    before: float | None
    """Test score before training; None if full fine-tuning has no run that measured it."""
    learned: tuple[str, ...]
    """Names of the methods that score better than before training and than guessing one label."""
    seconds: float
    """Seconds that all parts of the comparison took together."""
    command: str
    """The command that repeats the comparison."""
    held_fixed: tuple[tuple[str, str], ...]
    """(name, value) of each setting that is the same for all methods."""
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    """The table's rows: the baseline, the methods from best to worst, the frozen probe."""

    @property
    def baseline(self) -> Row | None:
        """The row of full fine-tuning; None if there is none."""
        return next((row for row in self.rows if row.role == "baseline"), None)

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows of methods, without the baseline and the probe."""
        return tuple(row for row in self.rows if row.role == "method")

    def to_json(self) -> Any:
        """Converts the comparison to the content of compare.json."""
        content: dict[str, Any] = {}
        for name, part in records.to_json(self).items():
            direction = {"higher_is_better": self.metric.higher_is_better}
            content |= {name: self.metric.name, **direction} if name == "metric" else {name: part}
        return content

    @classmethod
    def from_json(cls, value: Any) -> Comparison:
        """Makes a comparison from the content of compare.json.

        Raises:
            ValueError, KeyError or TypeError: the value is not a comparison.
        """
        metric = Metric(value["metric"], value["higher_is_better"])
        return records.from_json(cls, {**value, "metric": metric})


def read_comparison(folder: Path) -> Comparison:
    """Reads compare.json in a folder; raises the errors of `Comparison.from_json`."""
    return Comparison.from_json(json.loads((folder / FILE).read_text(encoding="utf-8")))
