"""The score of a model on a split: metrics, their intervals, and tables for the receipt."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from peftkit.metrics.metric import Metric
from peftkit.parts.records import IF_SET
from peftkit.tasks.answers import Decision

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Outputs = npt.NDArray[np.float32]


@dataclass(frozen=True)
class PassagePart:
    """A piece of a text, and which answers it is in."""

    text: str
    kind: Literal["neither", "expected", "predicted", "both"] = "neither"


@dataclass(frozen=True)
class Mistake:
    """A wrong answer. Lists of mistakes begin with the worst one: the one that the model was most
    certain of, or the number with the largest error.
    """

    row: int
    text: str
    expected: str
    predicted: str
    probability: float | None = None
    """Probability of the predicted answer; None if the model gives none."""
    error: float | None = field(default=None, metadata=IF_SET)
    """The predicted number minus the expected one; None if the answer is no number."""
    passage: tuple[PassagePart, ...] | None = field(default=None, metadata=IF_SET)
    """The passage that the answers are taken from, in pieces; None if they are not."""


@dataclass(frozen=True)
class Line:
    """A line of a chart."""

    name: str
    values: tuple[float, ...]
    """(points,), heights."""


@dataclass(frozen=True)
class Chart:
    """Lines over the same points, which the receipt draws."""

    title: str
    x: str
    """Title of the horizontal axis."""
    places: tuple[float, ...]
    """(points,), where the points are on the horizontal axis."""
    lines: tuple[Line, ...]
    names: tuple[str, ...] = ()
    """(points,), names to write at the points instead of numbers; empty for numbers."""
    mark: float | None = None
    """A place to mark on the horizontal axis; None for none."""
    note: str = ""
    """A sentence beneath the picture."""


@dataclass(frozen=True)
class Matrix:
    """Counts of expected classes (rows) by predicted classes (columns), which the receipt draws."""

    title: str
    labels: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]
    columns: tuple[str, ...] | None = field(default=None, metadata=IF_SET)
    """Labels of the columns if there are more than rows; None if they are the same."""


@dataclass(frozen=True)
class ScoreTable:
    """A table for the receipt, which formats its numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str | float | int, ...], ...]
    note: str = field(default="", metadata=IF_SET)
    """A sentence above the table."""


@dataclass(frozen=True)
class Parts:
    """What each row adds to a score: the score is `Metric.statistic` of the sums over rows."""

    columns: tuple[tuple[float, ...], ...]
    """(k, entries), the numbers to sum over rows; for a mean, weighted values and weights."""
    num_labels: int = 0
    """Number of labels if `columns` are each entry's expected and predicted label, as for F1; else
    0. `label_counts` turns such columns into a table of (entries, 3 * num_labels). -1 is no label:
    a text may lack a label that is predicted, or have one that is not."""
    entries_per_row: tuple[int, ...] | None = field(default=None, metadata=IF_SET)
    """(rows,), number of entries, which follow each other, whose sum each row adds; None if each
    entry is a row."""

    @classmethod
    def of(cls, table: npt.NDArray[np.number], num_labels: int = 0) -> Parts:
        """Builds the parts from a table of (rows, k)."""
        return cls(tuple(tuple(column) for column in table.T.tolist()), num_labels)

    @classmethod
    def of_label_sets(cls, expected: npt.NDArray[np.bool_], predicted: Any) -> Parts:
        """Builds the parts from the labels that each row has and that the model gives it.

        Args:
            expected, predicted: (rows, labels), true where the row has the label.
        """
        import numpy as np

        rows, labels = (expected | predicted).nonzero()
        pairs = [np.where(given[rows, labels], labels, -1) for given in (expected, predicted)]
        counts = np.bincount(rows, minlength=len(expected))
        columns = tuple(tuple(column.tolist()) for column in pairs)
        return cls(columns, expected.shape[1], tuple(counts.tolist()))

    @property
    def table(self) -> npt.NDArray[np.float64]:
        """(rows, k), the numbers to sum over rows."""
        columns = self._columns
        return self._of_rows(columns).toarray() if self.num_labels else columns

    @property
    def distinct(self) -> tuple[Any, npt.NDArray[np.int64]]:
        """The rows of `table` without repetitions, an array or a sparse one, and how often each
        occurs.
        """
        import numpy as np

        columns = self._columns
        if self.entries_per_row is None:
            kinds, counts = np.unique(columns, axis=0, return_counts=True)
            return (self._of_rows(kinds) if self.num_labels else kinds), counts
        rows = np.split(columns, np.cumsum(self.entries_per_row)[:-1])
        occurring = Counter(row.tobytes() for row in rows)
        first = {row.tobytes(): index for index, row in reversed(list(enumerate(rows)))}
        chosen = self._of_rows(columns)[[first[row] for row in occurring]]
        return chosen, np.array(list(occurring.values()), np.int64)

    @property
    def _columns(self) -> npt.NDArray[np.float64]:
        """`columns` as an array, (entries, k)."""
        import numpy as np

        return np.array(self.columns, np.float64).T

    def _of_rows(self, labels: Any) -> Any:
        """Turns expected and predicted labels, (entries, 2), into a sparse table of counts, (rows,
        3 * num_labels).
        """
        import numpy as np
        from scipy.sparse import csr_array

        from peftkit.metrics.classification import label_counts

        expected, predicted = labels.T.astype(int)
        counts = label_counts(expected, predicted, self.num_labels)
        if self.entries_per_row is None:
            return counts
        ends = np.cumsum((0, *self.entries_per_row))
        entries = np.arange(ends[-1])
        member = csr_array((np.ones(ends[-1]), entries, ends), (len(ends) - 1, ends[-1]))
        return member @ counts


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

    decision: Decision = field(default_factory=Decision)
    """The decision by which outputs became answers; empty if the task decides nothing."""
    charts: tuple[Chart, ...] = ()

    @classmethod
    def of(
        cls,
        metric: Callable[[str], Metric],
        parts: Mapping[str, Parts],
        *,
        tables: tuple[ScoreTable, ...] = (),
        matrices: tuple[Matrix, ...] = (),
        mistakes: tuple[Mistake, ...] = (),
        charts: tuple[Chart, ...] = (),
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
        return cls(
            metrics, intervals, tables, matrices, mistakes, dict(parts), charts=charts
        )  # fmt: skip
