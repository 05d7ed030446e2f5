"""The score of a model on a split: metrics, their intervals, and tables for the receipt."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. Lists of mistakes begin with the one that the model was most certain of."""

    row: int
    text: str
    expected: str
    predicted: str
    probability: float


@dataclass(frozen=True)
class Matrix:
    """Counts of expected classes (rows) by predicted classes (columns), which the receipt draws."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class ScoreTable:
    """A table for the receipt, which formats its numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]


@dataclass(frozen=True)
class Parts:
    """What each row adds to a score: the score is `Metric.statistic` of the sums over rows."""

    columns: tuple[tuple[float, ...], ...]
    """(k, rows), or (k, groups) if equal rows are grouped; for a mean, values and weights (k =
    2)."""
    group_of: tuple[int, ...] = ()
    """(rows,), the index of each row's group; empty if rows are not grouped."""

    @classmethod
    def of(
        cls, table: npt.NDArray[np.floating], group_of: npt.NDArray[np.int64] | None = None
    ) -> Parts:
        """Makes parts from a table (rows, k), or from a table (groups, k) and each row's group."""
        groups = () if group_of is None else tuple(map(int, group_of))
        return cls(tuple(tuple(map(float, column)) for column in table.T), groups)

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """What each row adds, (rows, k)."""
        import numpy as np

        table = np.array(self.columns, np.float64).T
        return table[list(self.group_of)] if self.group_of else table


@dataclass(frozen=True)
class Score:
    """The score of a model on one split."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """Metric -> its 95 % bootstrap interval over rows; some metrics have none."""
    tables: tuple[ScoreTable, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    parts: dict[str, Parts] = field(default_factory=dict)
    """Metric -> what each row adds to it, to compare two models on the same rows; only for metrics
    that are computed from sums over rows."""
