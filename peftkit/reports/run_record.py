"""The record of a run: the content of run.json as a value, from which the receipt is made."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.bases.fingerprint import RecordedBase
from peftkit.data.ledger import Ledger
from peftkit.methods.method import Layout
from peftkit.parts import records
from peftkit.reports.plan_record import Plan, Unplanned
from peftkit.tasks.score import Chart, Matrix, Mistake, ScoreTable
from peftkit.training.account import TrainResult

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RecordedStart:
    """The adapter from which a run started."""

    name: str
    weights: dict[str, str]
    """Weight file of the adapter -> its SHA-256."""


@dataclass(frozen=True)
class Sample:
    """A test prompt with the model's answers before and after training."""

    row: int
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class RecordedProbe:
    """How the frozen probe of a run was fitted, or why it was left out. The probe's scores are in
    `TestRecord.baseline`.
    """

    left_out: str
    rows: int
    """Number of training rows used for the fit."""
    training_rows: int
    """Number of training rows in all."""
    regularization: float | None


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """Scores and answers on the test split."""

    __test__ = False  # not a test class for pytest

    lead: tuple[str, ...] = ()
    """A sentence for each baseline that the trained model does not beat."""
    before: dict[str, float]
    baseline: dict[str, dict[str, float]]
    """Baseline, such as guessing or the frozen probe -> its scores."""
    after: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Score -> its 95 % interval, for scores that have one."""
    tables: tuple[ScoreTable, ...]
    matrices: tuple[Matrix, ...]
    mistakes: tuple[Mistake, ...]
    samples: tuple[Sample, ...] = ()
    of_samples: tuple[str, ...] = ()
    """Names of the scores computed on the samples, not on all test rows."""
    probe: RecordedProbe | None = None
    charts: tuple[Chart, ...] = ()


@dataclass(frozen=True)
class SelfCheck:
    """The batch layout of training, and notes on why faster ways of training were rejected."""

    layout: Layout
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ProbeCheck:
    """Largest difference between the logits of the saved adapter and of the trained model, on
    `count` probes.
    """

    count: int
    max_difference: float


@dataclass(frozen=True, kw_only=True)
class RunRecord:
    """The content of run.json."""

    status: str
    name: str
    created: str
    folder: str
    recipe: RecordedRecipe
    base: RecordedBase
    device: str
    trainable_parameters: int
    total_parameters: int
    base_memory_mb: float
    """Memory of the base's weights."""
    adapter_bytes: int
    """Size of the adapter on disk."""
    command: str = "predict"
    """The `peftkit` command for using the trained model: `predict` or `chat`."""
    asked: dict[str, str] | None = field(default=None, metadata=records.IF_SET)
    """Option of `peftkit predict` -> the task's name for its value, of each that an input needs;
    None for a text, or a pair if the recipe has one."""
    serve: dict[str, str] = field(default_factory=dict)
    """Serving program -> the `peftkit` command that exports the adapter for it."""
    start: RecordedStart | None = None
    """The start adapter; None if training began with the base."""
    test: TestRecord
    training: TrainResult
    seconds: dict[str, float]
    """Stage -> its duration in seconds."""
    peak_memory_mb: float
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """Stage -> its peak memory."""
    plan: Plan | Unplanned
    self_check: SelfCheck
    probes: ProbeCheck
    ledger: Ledger
    data_sha256: str = ""
    versions: dict[str, str]

    @property
    def expected_mb(self) -> float | None:
        """The planned peak memory; None if there was no plan."""
        return self.plan.peak_mb if isinstance(self.plan, Plan) else None

    def to_json(self) -> Any:
        """The content of run.json."""
        plan = self.plan.to_json() if isinstance(self.plan, Plan) else records.to_json(self.plan)
        return {**records.to_json(self), "recipe": self.recipe.to_json(), "plan": plan}

    @classmethod
    def from_json(cls, value: Any) -> RunRecord:
        """Reads the content of run.json.

        Raises:
            ValueError: the value is not a run's record.
        """
        recipe = RecordedRecipe.from_json(value["recipe"])
        test = _with_sample_scores(value["test"])
        return records.from_json(cls, {**value, "recipe": recipe, "test": test})


def _with_sample_scores(test: Any) -> Any:
    """Returns a test record in its new form; old records hold the scores of answers separately."""
    answers = test.get("answers") or {}
    scores_by_time = {when: {**test[when], **scores} for when, scores in answers.items()}
    names = {"of_samples": tuple(answers["after"])} if answers else {}
    return {**test, **scores_by_time, **names}


def read_run(folder: Path) -> RunRecord:
    """Reads run.json in a run folder."""
    return RunRecord.from_json(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
