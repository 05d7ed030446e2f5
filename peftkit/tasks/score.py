"""A model judged on a split: metrics, intervals, and what a receipt shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer, worst first when the model was sure of it."""

    row: int
    text: str
    expected: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Matrix:
    """Counts of expected (rows) against predicted (columns), drawn by the receipt."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScoreTable:
    """A table the receipt prints as it is; numbers are formatted there."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class ByExample:
    """A score as what its examples give to it: sum of `values` / sum of `weights`."""

    values: tuple[float, ...]
    weights: tuple[float, ...]


@dataclass(frozen=True)
class Score:
    """A model judged on one split."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over rows, of the metrics that have one."""
    tables: tuple[ScoreTable, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    by_example: dict[str, ByExample] = field(default_factory=dict)
    """Of the metrics that are means over examples: what tells two models apart that were judged on
    the same ones."""
