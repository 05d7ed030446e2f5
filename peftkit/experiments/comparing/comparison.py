"""A comparison as a value: the content of compare.json."""

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
"""Most memory of `training`, `evaluation` and `merging`; None where it was not measured."""


@dataclass(frozen=True)
class Rate:
    """A learning rate, and what its trial reached on the validation split."""

    learning_rate: float
    value: float | None
    """The best score; None if the trial failed."""
    loss: float | None = None
    best_step: int | None = None
    num_steps: int | None = None
    failed: str = ""
    """Why it failed."""
    died: bool = False
    """Whether it may go better another time."""
    too_high: bool = False
    """Whether it is the best one of the trials, and too high for all steps."""


@dataclass(frozen=True)
class ValidationPoint:
    """A score on the validation split, and the seconds of training until then."""

    step: int
    seconds: float
    value: float | None


@dataclass(frozen=True)
class LossPoint:
    """The training loss of a step."""

    step: int
    loss: float


@dataclass(frozen=True, kw_only=True)
class SeedRun:
    """What the table needs of a run with a seed."""

    failed: str = ""
    seed: int
    folder: str = ""
    """Below the comparison's."""
    score: float | None
    """On the test split."""
    interval: tuple[float, float] | None = None
    before: float | None = None
    """The score before training."""
    guessed: float | None = None
    """The score of guessing one label; None where rows have none."""
    best_step: int = 0
    num_steps: int = 0
    seconds_per_epoch: float = 0.0
    seconds_to_best: float = 0.0
    validations: tuple[ValidationPoint, ...] = ()
    history: tuple[LossPoint, ...] = ()
    peak_memory_mb: Megabytes = field(default_factory=dict)
    forgetting: float | None = None
    """By how much training raised the loss on general text."""
    kept_loss: float | None = None
    """The loss on general text after training."""
    extra: dict[str, float] = field(default_factory=dict)
    """Scores of written answers."""
    trainable_parameters: int = 0
    total_parameters: int = 0
    adapter_bytes: int = 0
    precision: str = ""
    command: str = ""
    """Repeats the run."""
    seconds_taken: float = 0.0
    """Of the whole run."""


@dataclass(frozen=True)
class ProbeFit:
    """What the frozen probe has where methods have runs."""

    seed: None
    score: float
    interval: tuple[float, float]
    validations: tuple[ValidationPoint, ...]
    history: tuple[LossPoint, ...]
    command: str


@dataclass(frozen=True)
class Gap:
    """How much higher a score is than another one, with its interval."""

    value: float
    interval: tuple[float, float]


@dataclass(frozen=True)
class JudgedGap(Gap):
    """With what it means."""

    verdict: str


@dataclass(frozen=True, kw_only=True)
class Row:
    """A method, or the frozen probe. Values are None where there is no run, or nothing to tell."""

    name: str
    method: str
    """Its kind."""
    role: Role
    precision: str
    """Of the base's weights."""
    learning_rate: float | None = None
    regularization: float | None = field(default=None, metadata=IF_SET)
    """Strength of the probe's."""
    rates: tuple[Rate, ...] = ()
    """Those that were tried."""
    seeds: tuple[SeedRun | ProbeFit, ...] = ()
    score: float | None = None
    """Mean over the seeds, on the test split."""
    interval: tuple[float, float] | None = None
    """95 % interval, over rows and seeds."""
    difference_to_full: Gap | None = None
    verdict: str = ""
    """`better`, `worse`, `equivalent` or `undecided` beside full fine-tuning, `baseline` if it is
    that, `failed` if no run ended."""
    trained_out: bool | None = None
    """See `trained_out.py`; None where unknown."""
    failed: str = ""
    forgetting: float | None = None
    extra: dict[str, float] = field(default_factory=dict)
    """Means over the seeds."""
    command: str = ""
    """Repeats the first run."""
    trainable_parameters: int | None = None
    total_parameters: int | None = None
    adapter_bytes: int | None = None
    seconds_per_epoch: float | None = None
    seconds_to_best: float | None = None
    seconds_to_99_of_full: float | None = None
    """Until the validation score is that close to full fine-tuning's best."""
    peak_memory_mb: Megabytes | None = None
    difference_to_probe: JudgedGap | None = None

    def memory(self, kind: str) -> float | None:
        """Most memory of `training`, `evaluation` or `merging`, in MB."""
        return (self.peak_memory_mb or {}).get(kind)

    @property
    def runs(self) -> tuple[SeedRun, ...]:
        """The seeds, of a method."""
        return tuple(seed for seed in self.seeds if isinstance(seed, SeedRun))


@dataclass(frozen=True)
class Spent:
    """What each method gets."""

    num_epochs: int
    num_steps: int
    batch_size: int
    tokens: int
    trials: int
    """Learning rates that are tried."""
    search_steps: int
    """Steps of each."""
    num_seeds: int


@dataclass(frozen=True)
class SplitRows:
    """Rows of each split."""

    train: int
    validation: int
    test: int


@dataclass(frozen=True)
class ComparedBase:
    """The fingerprint of the base."""

    name: str
    hub_id: str = ""
    revision: str = ""
    quantization: str = "none"
    double_quant: bool = False
    files: dict[str, str] = field(default_factory=dict)
    """File -> SHA-256."""
    sha256: str = ""


@dataclass(frozen=True)
class Comparison:
    """The content of compare.json."""

    status: str
    """`unfinished` on the way, `incomplete` if parts failed that may be tried again, `finished`."""
    name: str
    created: str
    device: str
    versions: dict[str, str]
    base: ComparedBase
    task: str
    """Its kind."""
    data: str
    split_rows: SplitRows
    metric: Metric
    """By which methods are compared."""
    margin: float
    """Largest difference that does not matter."""
    budget: Spent
    before: float | None
    """The score before training, if it is known."""
    learned: tuple[str, ...]
    """Names of the methods that are better than what needs no training."""
    seconds: float
    """Of all parts."""
    command: str
    """Compares the same again."""
    held_fixed: tuple[tuple[str, str], ...]
    """(what, its value) that all methods have in common."""
    notes: tuple[str, ...]
    rows: tuple[Row, ...]
    """The baseline, the methods by their score, the frozen probe."""

    @property
    def baseline(self) -> Row | None:
        """Full fine-tuning."""
        return next((row for row in self.rows if row.role == "baseline"), None)

    @property
    def methods(self) -> tuple[Row, ...]:
        """The rows that are compared with the baseline."""
        return tuple(row for row in self.rows if row.role == "method")

    def to_json(self) -> Any:
        """As compare.json has it: the metric's name, and its direction behind it."""
        content: dict[str, Any] = {}
        for name, part in records.to_json(self).items():
            direction = {"higher_is_better": self.metric.higher_is_better}
            content |= {name: self.metric.name, **direction} if name == "metric" else {name: part}
        return content

    @classmethod
    def from_json(cls, value: Any) -> Comparison:
        """From the content of compare.json.

        Raises:
            ValueError, KeyError or TypeError: it is no such content.
        """
        metric = Metric(value["metric"], value["higher_is_better"])
        return records.from_json(cls, {**value, "metric": metric})


def read_comparison(folder: Path) -> Comparison:
    """The comparison in a folder; errors as of `Comparison.from_json`."""
    return Comparison.from_json(json.loads((folder / FILE).read_text(encoding="utf-8")))
