"""The score of a model on a split: metrics, their intervals, and tables for the receipt."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from peftkit.metrics.metric import Metric
from peftkit.parts.records import IF_SET

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. Lists of mistakes begin with the worst one: of classes, the one that the
    model was most certain of; of numbers, the one with the largest error.
    """

    row: int
    text: str
    expected: str
    predicted: str
    probability: float | None = None
    """The model's probability of its answer; None if it gives none."""
    error: float | None = field(default=None, metadata=IF_SET)
    """The predicted number minus the expected one; None if the answer is a class."""


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

        columns = np.array(self.columns, np.float64).T
        return self._expanded(columns).toarray() if self.num_labels else columns

    @property
    def distinct(self) -> tuple[Any, npt.NDArray[np.int64]]:
        """The rows of `table` without repetitions, an array or a sparse one, and how often each
        occurs.
        """
        import numpy as np

        columns = np.array(self.columns, np.float64).T
        kinds, counts = np.unique(columns, axis=0, return_counts=True)
        return (self._expanded(kinds) if self.num_labels else kinds), counts

    def _expanded(self, labels: Any) -> Any:
        """Turns expected and predicted labels, (rows, 2), into a sparse (rows, 3 labels)."""
        from peftkit.metrics.classification import label_counts

        expected, predicted = labels.T.astype(int)
        return label_counts(expected, predicted, self.num_labels)


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

    @classmethod
    def of(
        cls,
        metric: Callable[[str], Metric],
        parts: Mapping[str, Parts],
        *,
        tables: tuple[ScoreTable, ...] = (),
        matrices: tuple[Matrix, ...] = (),
        mistakes: tuple[Mistake, ...] = (),
    ) -> Score:
        """Computes metrics and intervals from their parts. `loss` gets neither, since whoever runs
        the model computes it.

        Args:
            metric: the task's `metric`.
            parts: name of a metric -> what each row adds to it.
        """
        from peftkit.metrics.bootstrap import score_interval

        metrics, intervals = {}, {}
        for name, of_rows in parts.items():
            if name != "loss":
                judged, (table, counts) = metric(name), of_rows.distinct
                metrics[name] = float(judged.statistic(counts @ table))
                intervals[name] = score_interval(judged, table, counts)
        return cls(metrics, intervals, tables, matrices, mistakes, dict(parts))
