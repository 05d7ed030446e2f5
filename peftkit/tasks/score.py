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
    """(k, rows), the numbers to sum over rows; for a mean, weighted values and weights."""
    num_labels: int = 0
    """Number of labels if `columns` are each row's expected and predicted label, as for F1; else 0.
    `label_counts` turns such columns into a table of (rows, 3 * num_labels)."""

    @classmethod
    def of(cls, table: npt.NDArray[np.number], num_labels: int = 0) -> Parts:
        """Builds the parts from a table of (rows, k)."""
        return cls(tuple(tuple(column) for column in table.T.tolist()), num_labels)

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """(rows, k), the numbers to sum over rows."""
        import numpy as np

        if not self.num_labels:
            return np.array(self.columns, np.float64).T
        from peftkit.metrics.classification import label_counts

        expected, predicted = np.array(self.columns, np.int64)
        table: npt.NDArray[np.float64] = label_counts(
            expected, predicted, self.num_labels
        ).toarray()
        return table


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
    """Metric -> what each row adds to it, so that two models can be compared on the same rows.
    Holds only metrics that are computed from sums over rows."""
