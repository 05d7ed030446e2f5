"""The record of a cross-validation: the content of folds.json."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import JsonValue

from peftkit.parts import records

FILE = "folds.json"


@dataclass(frozen=True)
class Identity:
    """What a cross-validation must have in common with a folder in order to resume it."""

    recipe: JsonValue
    """The recipe of all folds."""
    rows_sha256: str
    code: dict[str, str]
    """Module with the user's own task or method -> SHA-256 of its file."""
    versions: dict[str, str]


@dataclass(frozen=True)
class FoldScores:
    """The scores of one fold's run."""

    fold: int
    folder: str
    """Path of the run folder within the folder of the cross-validation."""
    rows: dict[str, int]
    """Split -> number of rows."""
    before: dict[str, float]
    """Test scores before training."""
    baselines: dict[str, dict[str, float]]
    """Baseline without training, such as guessing -> its test scores."""
    after: dict[str, float]
    """Test scores after training."""
    validation: float
    """The best validation score, by which the best weights and the best fold are chosen."""
    best_step: int
    num_steps: int
    seconds: float


@dataclass(frozen=True)
class FoldedScore:
    """One score over all folds."""

    name: str
    mean: float
    """Mean of the folds' test scores."""
    spread: float
    """Standard deviation of the folds' test scores."""
    pooled: float | None
    """The score of all rows together, each tested by the run that did not see it; None if the
    score is not computed from sums over rows."""
    interval: tuple[float, float] | None
    """95 % bootstrap interval of `pooled` over rows."""
    rows: int | None
    """Number of rows that `pooled` is computed from."""


@dataclass(frozen=True, kw_only=True)
class FoldsRecord:
    """The content of folds.json."""

    status: Literal["unfinished", "finished"]
    name: str
    identity: Identity
    created: str = ""
    metric: str = ""
    """The validation metric that chooses the best fold."""
    folds: tuple[FoldScores, ...] = ()
    scores: tuple[FoldedScore, ...] = ()
    chosen: int | None = None
    """The fold whose adapter is in the folder `adapter`."""
    notes: tuple[str, ...] = field(default=())
    seconds: float = 0.0
    """Seconds of all runs."""

    def to_json(self) -> Any:
        """The content of folds.json."""
        return records.to_json(self)


def read_record(folder: Path) -> FoldsRecord:
    """Reads folds.json in a folder.

    Raises:
        ValueError: the file is damaged.
    """
    return records.from_json(FoldsRecord, json.loads((folder / FILE).read_text(encoding="utf-8")))
