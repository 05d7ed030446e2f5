"""Scores answers taken from a context: exact match and F1, and where they are wrong."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array
from peftkit.data.rows import Row
from peftkit.metrics.answers import NO_ANSWER, Normalization, exact_match, f1
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Chart, Line, Mistake, Parts, Score, ScoreTable
from peftkit.tasks.scoring.number_scores import quantile_groups
from peftkit.tasks.scoring.passages import marked_passage
from peftkit.tasks.scoring.span_decoding import Decoded, decode, outputs_of_rows

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

MOST_MISTAKES = 20
MOST_WINDOWS = 5
"""Contexts with at least this number of windows are one group."""
MOST_POINTS = 60
"""Largest number of points in the chart of thresholds."""
KINDS = (
    "exact", "overlapping", "elsewhere", "none, though there is one", "one, though there is none",
    "rightly none",
)  # fmt: skip
"""Kinds of answers, compared with the right ones."""


@dataclass(frozen=True)
class Judged:
    """The answer of a row, and its scores."""

    row: Row
    decoded: Decoded
    answered: bool
    """Whether an answer is given, as its margin is above the threshold."""
    exact: float
    f1: float
    f1_if_answered: float

    @property
    def golds(self) -> tuple[tuple[str, int], ...]:
        """The right answers, with their places."""
        golds: tuple[tuple[str, int], ...] = self.row.values["answers"]
        return golds

    @property
    def kind(self) -> str:
        """One of `KINDS`."""
        if not self.golds:
            return KINDS[4] if self.answered else KINDS[5]
        if not self.answered:
            return KINDS[3]
        span = self.decoded.spans[0]
        touched = any(at < span.end and span.start < at + len(text) for text, at in self.golds)
        return KINDS[0] if self.exact else KINDS[1] if touched else KINDS[2]


def judge(
    row: Row, decoded: Decoded, threshold: float | None, normalization: Normalization
) -> Judged:
    """Scores the answer of a row.

    Args:
        threshold: margin above which the answer is given; None to give one always.
    """
    texts, best = [text for text, _ in row.values["answers"]], decoded.spans[0]
    answered = threshold is None or decoded.margin > threshold
    given = best.text if answered else ""
    return Judged(
        row, decoded, answered,
        exact_match(given, texts, normalization),
        f1(given, texts, normalization),
        f1(best.text, texts, normalization),
    )  # fmt: skip


def judged_rows(
    kept: Outputs,
    examples: Examples,
    threshold: float | None,
    max_answer_tokens: int,
    normalization: Normalization,
) -> list[Judged]:
    """The answer of each row with its scores; see `judge`.

    Args:
        kept: (outputs, 2), start and end logits.
    """
    return [
        judge(of.row, decode(of, max_answer_tokens), threshold, normalization)
        for of in outputs_of_rows(kept, examples)
    ]


def span_score(
    metric: Callable[[str], Metric],
    rows: Sequence[Judged],
    losses: Parts,
    threshold: float | None,
    learned_none: bool,
) -> Score:
    """F1 and exact match over all rows and, if some have no answer, over either kind; by length of
    the context and number of windows; and the worst mistakes.

    Args:
        metric: the task's `metric`.
        losses: what each row adds to the loss.
        threshold: see `judge`.
        learned_none: whether the model has learned to give no answer.
    """
    has = np.array([bool(row.golds) for row in rows])
    values = {
        "f1": np.array([r.f1 for r in rows]),
        "exact_match": np.array([r.exact for r in rows]),
    }
    parts = {name: Parts.of(np.stack([value, value * 0 + 1], axis=1))
             for name, value in values.items()}  # fmt: skip
    if not has.all():
        for kind, here in (("has_answer", has), ("no_answer", ~has)):
            for name, value in values.items():
                parts[f"{kind}_{name}"] = Parts.of(np.stack([value * here, here], axis=1))
    length = np.array([row.decoded.num_tokens for row in rows])
    windows = np.array([row.decoded.num_windows for row in rows])
    groups, names = quantile_groups(length)
    tables, charts = [_kinds(rows)], []
    for title, x, of, labels in (
        ("Scores by length of the context", "tokens of the context", groups,
         [name.partition(": ")[2] for name in names]),
        ("Scores by number of windows", "windows of the context", *_by_count(windows)),
    ):  # fmt: skip
        table, chart = _grouped(title, x, of, labels, values)
        tables.append(table)
        charts.append(chart)
    if learned_none and not has.all():
        charts.append(_thresholds(rows, threshold))
    return Score.of(
        metric, {**parts, "loss": losses}, tables=tuple(tables), mistakes=_mistakes(rows),
        charts=tuple(chart for chart in charts if len(chart.places) > 1),
    )  # fmt: skip


def loss_parts(kept: Outputs, examples: Examples) -> Parts:
    """What each row adds to the loss: the sum over its windows, and their number.

    Args:
        kept: (outputs, 2), start and end logits.
    """
    assert examples.read_at is not None
    assert examples.row_of is not None
    if not len(examples):
        return Parts.of(np.zeros((0, 2)))
    starts, logits = examples.read_at.offsets[:-1], kept.astype(np.float64)
    sums = np.logaddexp.reduceat(logits, starts, axis=0)
    losses = (np.repeat(sums, examples.read_at.lengths, axis=0) - logits) * examples.targets
    of_windows = np.add.reduceat(losses.sum(axis=1), starts) / 2
    count = len(examples.rows)
    sizes = np.bincount(examples.row_of, minlength=count)
    return Parts.of(np.stack([np.bincount(examples.row_of, of_windows, count), sizes], axis=1))


def gains(rows: Sequence[Judged]) -> list[float]:
    """What answering each row adds to the sum of F1, less what leaving it adds."""
    return [row.f1_if_answered - (not row.golds) for row in rows]


def _kinds(rows: Sequence[Judged]) -> ScoreTable:
    counts = Counter(row.kind for row in rows)
    shown = KINDS if any(not row.golds for row in rows) else KINDS[:3]
    lines = [(kind, counts[kind], counts[kind] / len(rows)) for kind in KINDS
             if kind in shown or counts[kind]]  # fmt: skip
    return ScoreTable("Kinds of answers", ("answer", "rows", "share"), tuple(lines))


def _by_count(windows: Array) -> tuple[Array, list[str]]:
    """The group of each row by its number of windows, and the groups' names."""
    numbers, groups = np.unique(np.minimum(windows, MOST_WINDOWS), return_inverse=True)
    return groups, [f"{n} or more" if n == MOST_WINDOWS else str(n) for n in numbers]


def _grouped(
    title: str, x: str, groups: Array, names: Sequence[str], values: dict[str, Array]
) -> tuple[ScoreTable, Chart]:
    """The means of scores over the rows of each group, as a table and as a chart."""
    means = {name: [float(value[groups == group].mean()) for group in range(len(names))]
             for name, value in values.items()}  # fmt: skip
    sizes = [int((groups == group).sum()) for group in range(len(names))]
    table = ScoreTable(
        title, (x, "rows", "F1", "exact match"),
        tuple(zip(names, sizes, means["f1"], means["exact_match"], strict=True)),
    )  # fmt: skip
    ticks = tuple(f"{name}\n({size:,} rows)" for name, size in zip(names, sizes, strict=True))
    lines = (Line("F1", tuple(means["f1"])), Line("exact match", tuple(means["exact_match"])))
    return table, Chart(title, x, tuple(range(len(names))), lines, ticks)


def _thresholds(rows: Sequence[Judged], threshold: float | None) -> Chart:
    """F1 of all rows by the threshold from which answers are given."""
    margins = np.array([row.decoded.margin for row in rows])
    added, none = np.array(gains(rows)), sum(not row.golds for row in rows)
    limits = np.unique(np.quantile(margins, np.linspace(0, 1, MOST_POINTS)))
    f1_at = [float((none + added[margins > limit].sum()) / len(rows)) for limit in limits]
    return Chart(
        "F1 by threshold", "threshold", tuple(limits.tolist()), (Line("F1", tuple(f1_at)),),
        mark=threshold,
        note="Answers with a score above the threshold are given; the dotted line is the "
        "threshold that the validation split chose.",
    )  # fmt: skip


def _mistakes(rows: Sequence[Judged]) -> tuple[Mistake, ...]:
    """The answers that are least like the right ones, those first that the model was most sure
    of.
    """
    order = sorted(rows, key=lambda row: -(1 - row.f1) * row.decoded.probability)
    return tuple(
        Mistake(
            row=one.row.number,
            text=one.row.values["question"],
            expected=one.golds[0][0] if one.golds else NO_ANSWER,
            predicted=one.decoded.spans[0].text if one.answered else NO_ANSWER,
            probability=one.decoded.probability if one.answered else None,
            passage=marked_passage(
                one.row.values["context"],
                one.golds[0] if one.golds else None,
                one.decoded.spans[0] if one.answered else None,
            ),
        )
        for one in order[:MOST_MISTAKES]
        if one.f1 < 1
    )
