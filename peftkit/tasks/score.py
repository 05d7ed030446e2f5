"""The score of a model on a split: metrics, intervals, and what a receipt shows."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer; the first of several is the one that the model was surest of."""

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
class Parts:
    """What each row adds to a score; `Metric.statistic` of the sums is the score."""

    columns: tuple[tuple[float, ...], ...]
    """(k, rows), for a mean the values and their weights; (k, groups) where equal rows are
    grouped."""
    group_of: tuple[int, ...] = ()
    """(rows,), the group of each row; empty where rows are not grouped."""

    @classmethod
    def of(
        cls, table: npt.NDArray[np.floating], group_of: npt.NDArray[np.int64] | None = None
    ) -> Parts:
        """From (rows, k), or from (groups, k) and the group of each row."""
        groups = () if group_of is None else tuple(map(int, group_of))
        return cls(tuple(tuple(map(float, column)) for column in table.T), groups)

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """(rows, k)."""
        import numpy as np

        table = np.array(self.columns, np.float64).T
        return table[list(self.group_of)] if self.group_of else table


@dataclass(frozen=True)
class Score:
    """The score of a model on one split."""

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]
    """95 % bootstrap interval over rows, for the metrics that have one."""
    tables: tuple[ScoreTable, ...] = ()
    matrices: tuple[Matrix, ...] = ()
    mistakes: tuple[Mistake, ...] = ()
    parts: dict[str, Parts] = field(default_factory=dict)
    """For metrics that are sums over rows; two models are compared by them on the same rows."""
