"""The record of a run: run.json as a value, from which the receipt is made."""

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
from peftkit.tasks.score import Matrix, Mistake, ScoreTable
from peftkit.training.account import TrainResult

RUN_FILE = "run.json"


@dataclass(frozen=True)
class RecordedStart:
    """The adapter that a run started from."""

    name: str
    weights: dict[str, str]
    """File -> SHA-256."""


@dataclass(frozen=True)
class Sample:
    """What the model writes for a test example, before and after training."""

    row: int
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class RecordedProbe:
    """The frozen probe of a run, whose scores are among the baselines, or why there is none."""

    left_out: str
    rows: int
    """Training rows in the fit."""
    training_rows: int
    """Training rows in all."""
    regularization: float | None


@dataclass(frozen=True, kw_only=True)
class TestRecord:
    """Scores and answers on the test split."""

    __test__ = False  # no test, for pytest

    lead: tuple[str, ...] = ()
    """Sentences on the baselines that the trained model does not beat."""
    before: dict[str, float]
    baseline: dict[str, dict[str, float]]
    """Scores of guesses that need no training, by name."""
    after: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % interval of the scores that have one."""
    tables: tuple[ScoreTable, ...]
    matrices: tuple[Matrix, ...]
    mistakes: tuple[Mistake, ...]
    samples: tuple[Sample, ...] = ()
    of_samples: tuple[str, ...] = ()
    """Names of the scores that are of the samples, not of all test rows."""
    probe: RecordedProbe | None = None


@dataclass(frozen=True)
class SelfCheck:
    """The layout of the batches, and which faster ways were left out, and why."""

    layout: Layout
    notes: tuple[str, ...]


@dataclass(frozen=True)
class ProbeCheck:
    """How far the saved adapter's answers to its probes are from the trained model's."""

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
    """Size on disk."""
    command: str = "predict"
    """The command of `peftkit` by which a person asks the trained model."""
    serve: dict[str, str] = field(default_factory=dict)
    """What the adapter can be written as -> the command that does."""
    start: RecordedStart | None = None
    """None where training began with the base."""
    test: TestRecord
    training: TrainResult
    seconds: dict[str, float]
    """Of each stage."""
    peak_memory_mb: float
    peaks_mb: dict[str, float] = field(default_factory=dict)
    """Most memory of each stage."""
    plan: Plan | Unplanned
    self_check: SelfCheck
    probes: ProbeCheck
    ledger: Ledger
    data_sha256: str = ""
    versions: dict[str, str]

    @property
    def expected_mb(self) -> float | None:
        """Most memory that was expected; None where there was no plan."""
        return self.plan.peak_mb if isinstance(self.plan, Plan) else None

    def to_json(self) -> Any:
        """As run.json has it."""
        plan = self.plan.to_json() if isinstance(self.plan, Plan) else records.to_json(self.plan)
        return {**records.to_json(self), "recipe": self.recipe.to_json(), "plan": plan}

    @classmethod
    def from_json(cls, value: Any) -> RunRecord:
        """From the content of run.json.

        Raises:
            ValueError: it is no such record.
        """
        recipe = RecordedRecipe.from_json(value["recipe"])
        test = _with_answers(value["test"])
        return records.from_json(cls, {**value, "recipe": recipe, "test": test})


def _with_answers(test: Any) -> Any:
    """A test record whose scores of samples stand among the others, as older ones' did not."""
    answers = test.get("answers") or {}
    among = {when: {**test[when], **scores} for when, scores in answers.items()}
    names = {"of_samples": tuple(answers["after"])} if answers else {}
    return {**test, **among, **names}


def read_run(folder: Path) -> RunRecord:
    """The record in a run's folder."""
    return RunRecord.from_json(json.loads((folder / RUN_FILE).read_text(encoding="utf-8")))
