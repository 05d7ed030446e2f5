"""Scores a classifier that gives each text any number of labels."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from scipy.special import expit

from peftkit.data.rows import Row
from peftkit.metrics.label_sets import best_threshold, per_label
from peftkit.metrics.metric import Metric
from peftkit.tasks.reading.label_sets import NONE, joined
from peftkit.tasks.score import Matrix, Mistake, Parts, Score, ScoreTable
from peftkit.tasks.scoring.row_outputs import text_of

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
WORST_MISTAKES = 20


def probabilities_of(outputs: Outputs) -> Floats:
    """Turns logits into the probability of each label, of the same shape."""
    probabilities: Floats = expit(outputs.astype(np.float64))
    return probabilities


def best_thresholds(outputs: Outputs, expected: Flags) -> list[float]:
    """Returns the threshold of each label with the highest F1; see `best_threshold`.

    Args:
        outputs: (rows, labels), logits.
        expected: (rows, labels).
    """
    columns = zip(probabilities_of(outputs).T, expected.T, strict=True)
    return [best_threshold(*column) for column in columns]


def label_set_score(
    metric: Callable[[str], Metric],
    outputs: Outputs,
    expected: Flags,
    rows: Sequence[Row],
    labels: tuple[str, ...],
    thresholds: Sequence[float],
) -> Score:
    """F1 over all decisions and of each label, right sets, and the mistakes that the model was most
    certain of.

    Args:
        metric: the task's `metric`.
        outputs: (rows, labels), logits.
        expected: (rows, labels).
        thresholds: (labels,), least probability at which a text gets a label.
    """
    probabilities = probabilities_of(outputs)
    predicted = probabilities >= np.array(thresholds)
    counts = [flags.sum(axis=1) for flags in (expected & predicted, predicted, expected)]
    ones = np.ones(len(expected))
    scores = zip(labels, per_label(expected, predicted), thresholds, strict=True)
    return Score.of(
        metric,
        {
            "micro_f1": Parts.of(np.stack(counts, axis=1)),
            "macro_f1": Parts.of_label_sets(expected, predicted),
            "subset_accuracy": Parts.of(np.stack([(expected == predicted).all(axis=1), ones], 1)),
            "loss": Parts.of(np.stack([_losses(outputs, expected), ones], axis=1)),
        },
        tables=(
            ScoreTable(
                "Per label",
                ("label", "precision", "recall", "f1", "support", "threshold"),
                tuple((name, *numbers, float(limit)) for name, numbers, limit in scores),
            ),
        ),
        matrices=(confusion(expected, predicted, labels),),
        mistakes=_mistakes(probabilities, expected, predicted, rows, labels),
    )


def _losses(outputs: Outputs, expected: Flags) -> Floats:
    """(rows,), the sum over labels of -log p of each decision that would be right."""
    logits = outputs.astype(np.float64)
    losses: Floats = np.logaddexp(0, np.where(expected, -logits, logits)).sum(axis=1)
    return losses


def confusion(expected: Flags, predicted: Flags, labels: tuple[str, ...]) -> Matrix:
    """Counts which labels are predicted where others are due, like the multi-label confusion matrix
    (Heydarian, Doyle & Samavi 2022).

    A right label counts on the diagonal. In each row, every missed label counts with every label
    that is predicted instead, or with `NONE` if there is none; a label that is predicted although
    none is missed counts with the expected label `NONE`.
    """
    right, missed, added = expected & predicted, expected & ~predicted, predicted & ~expected
    size = len(labels)
    counts = np.zeros((size + 1, size + 1), np.int64)
    counts[:size, :size] = missed.T.astype(np.int64) @ added
    counts[range(size), range(size)] = right.sum(axis=0)
    counts[:size, size] = missed[~added.any(axis=1)].sum(axis=0)
    counts[size, :size] = added[~missed.any(axis=1)].sum(axis=0)
    counts[size, size] = (~(expected | predicted).any(axis=1)).sum()
    return Matrix("Confusion", (*labels, NONE), tuple(map(tuple, counts.tolist())))


def _mistakes(
    probabilities: Floats,
    expected: Flags,
    predicted: Flags,
    rows: Sequence[Row],
    labels: tuple[str, ...],
) -> tuple[Mistake, ...]:
    """The rows with a wrong set. Those come first in which the model was most certain of a wrong
    label, or that a missed one is wrong.
    """
    certain = np.where(predicted, probabilities, 1 - probabilities)
    certain = np.where(expected == predicted, -1.0, certain).max(axis=1)
    worst = np.argsort(-certain, kind="stable")[:WORST_MISTAKES]

    def named(flags: Flags) -> str:
        return joined(labels[place] for place in flags.nonzero()[0])

    return tuple(
        Mistake(
            row=rows[index].number,
            text=text_of(rows[index]),
            expected=named(expected[index]),
            predicted=named(predicted[index]),
            probability=float(certain[index]),
        )
        for index in worst.tolist()
        if certain[index] >= 0
    )
