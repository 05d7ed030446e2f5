"""Scores of text pairs: rankings of the candidates of each group, or agreement over all pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.ragged import Array
from peftkit.data.rows import Row
from peftkit.metrics.correlation import auc_parts, pearson_parts, spearman_parts
from peftkit.metrics.metric import Metric
from peftkit.metrics.ranking import ndcg, ndcg_name, reciprocal_rank
from peftkit.tasks.score import Mistake, Parts, Score, ScoreTable
from peftkit.wording import shortened

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

MOST_MISTAKES = 20
MOST_SIZES = 6
"""Tables have at most this many ranges of group sizes, or of scores."""
ENDS = (0.1, 0.9)
"""Quantiles of the predictions in a table."""
LONGEST = 160
"""Longest candidate in a list of mistakes, in characters."""


def ranked_score(
    metric: Callable[[str], Metric],
    predicted: Outputs,
    expected: Array,
    rows: Sequence[Row],
    groups: Sequence[str],
    k: int,
) -> Score:
    """NDCG@k and MRR over groups whose candidates have different scores, by group size, and the
    groups with the lowest NDCG. Parts and intervals are of groups.

    Args:
        metric: the task's `metric`.
        predicted: (rows,), the highest comes first.
        expected: (rows,), relevances.
        groups: name of each row's group.
    """
    members: dict[str, list[int]] = {}
    for index, name in enumerate(groups):
        members.setdefault(name, []).append(index)
    lists = [np.array(m) for m in members.values() if np.ptp(expected[m])]
    gains = [ndcg(predicted[m], expected[m], k) for m in lists]
    ranks = [reciprocal_rank(predicted[m], expected[m]) for m in lists]
    ones, name = np.ones(len(lists)), ndcg_name(k)
    return Score.of(
        metric,
        {
            name: Parts.of(np.stack([np.array(gains), ones], axis=1)),
            "mrr": Parts.of(np.stack([np.array(ranks), ones], axis=1)),
        },
        tables=(_by_size([len(m) for m in lists], gains, ranks, name),),
        mistakes=tuple(_worst_groups(predicted, expected, rows, lists, gains)),
    )


def correlated_score(
    metric: Callable[[str], Metric], predicted: Outputs, expected: Array, rows: Sequence[Row]
) -> Score:
    """Spearman's and Pearson's correlation, predictions by expected score, and the pairs with the
    largest errors.

    Args:
        metric: the task's `metric`.
        predicted: (rows,).
        expected: (rows,).
    """
    errors = np.abs(predicted - expected)
    worst = np.argsort(-errors, kind="stable")[:MOST_MISTAKES]
    parts = {
        "spearman": Parts.of(spearman_parts(predicted, expected)),
        "pearson": Parts.of(pearson_parts(predicted, expected)),
    }
    mistakes = tuple(
        Mistake(rows[i].number, _both(rows[i]), f"{expected[i]:g}", f"{predicted[i]:.3g}")
        for i in worst
    )
    return Score.of(metric, parts, tables=(_by_score(predicted, expected),), mistakes=mistakes)


def matched_score(
    metric: Callable[[str], Metric], predicted: Outputs, expected: Array, rows: Sequence[Row]
) -> Score:
    """The area under the ROC curve, probabilities by expected score, and the wrong pairs that the
    model was most sure of.

    Args:
        metric: the task's `metric`.
        predicted: (rows,), probabilities.
        expected: (rows,), 0 or 1.
    """
    errors = np.abs(predicted - expected)
    worst = [i for i in np.argsort(-errors, kind="stable")[:MOST_MISTAKES] if errors[i] > 0.5]
    mistakes = tuple(
        Mistake(
            rows[i].number, _both(rows[i]), f"{expected[i]:g}", f"{1 - expected[i]:g}",
            float(errors[i]),
        )
        for i in worst
    )  # fmt: skip
    parts = {"auc": Parts.of(auc_parts(predicted, expected))}
    return Score.of(metric, parts, tables=(_by_score(predicted, expected),), mistakes=mistakes)


def ranks(scores: Sequence[float], groups: Sequence[str]) -> list[int]:
    """Returns (rows,), the rank of each score in its group: 1 for the highest; equal scores have
    the same rank.
    """
    of_group: dict[str, list[float]] = {}
    for score, group in zip(scores, groups, strict=True):
        of_group.setdefault(group, []).append(score)
    ordered = {group: np.sort(of) for group, of in of_group.items()}
    return [
        1 + len(ordered[group]) - int(np.searchsorted(ordered[group], score, "right"))
        for score, group in zip(scores, groups, strict=True)
    ]


def _by_size(
    sizes: Sequence[int], gains: Sequence[float], ranks: Sequence[float], name: str
) -> ScoreTable:
    """NDCG and MRR of the groups in each range of sizes."""
    rows = [
        (span, len(of), float(np.mean(np.array(gains)[of])), float(np.mean(np.array(ranks)[of])))
        for span, of in _ranges(np.array(sizes, np.float64))
    ]
    return ScoreTable("By number of candidates", ("candidates", "groups", name, "mrr"), tuple(rows))


def _by_score(predicted: Outputs, expected: Array) -> ScoreTable:
    """Mean, lowest tenth and highest tenth of the predictions in each range of expected scores."""
    rows = []
    for span, of in _ranges(expected):
        low, high = np.quantile(predicted[of], ENDS)
        rows.append((span, len(of), float(predicted[of].mean()), float(low), float(high)))
    columns = ("expected", "pairs", "mean prediction", "10 %", "90 %")
    return ScoreTable("By expected score", columns, tuple(rows))


def _ranges(values: Array) -> Iterable[tuple[str, Array]]:
    """Divides values into at most `MOST_SIZES` ranges; yields each range and the places of its
    values.
    """
    distinct = np.unique(values)
    edges = distinct
    if len(distinct) > MOST_SIZES:
        edges = np.unique(np.quantile(values, np.arange(MOST_SIZES) / MOST_SIZES, method="lower"))
    for low, end in zip(edges, [*edges[1:], np.inf], strict=True):
        of = np.flatnonzero((values >= low) & (values < end))
        high = values[of].max()
        yield (f"{low:g}" if low == high else f"{low:g} to {high:g}"), of


def _worst_groups(
    predicted: Outputs,
    expected: Array,
    rows: Sequence[Row],
    lists: Sequence[Array],
    gains: Sequence[float],
) -> Iterable[Mistake]:
    """Yields the groups with the lowest NDCG whose best candidate is not ranked first."""
    for index in np.argsort(gains, kind="stable")[:MOST_MISTAKES]:
        of = lists[index]
        first, best = of[predicted[of].argmax()], of[expected[of].argmax()]
        if expected[first] < expected[best]:
            row = rows[first]
            yield Mistake(row.number, row.values["text"], _second(rows[best]), _second(row))


def _second(row: Row) -> str:
    return shortened(row.values["text_pair"], LONGEST)


def _both(row: Row) -> str:
    return f"{row.values['text']}\n{row.values['text_pair']}"
