"""Scores of sets of labels: F1 of all decisions and of each label, and sets that are right.

    micro F1 = 2 right / (predicted + expected)      right, predicted, expected: summed over labels
    macro F1 = mean over labels of 2 right / (predicted + expected)
    subset accuracy = share of rows whose set of labels is right

As in scikit-learn with `zero_division=nan`, a label that no row has or gets does not count in
macro F1. Without any label at all, micro F1 is 0.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftkit.metrics.classification import macro_f1
from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]
MIDDLE = 0.5
"""Threshold of a label for which no row helps to choose one."""


def micro_f1(sums: Floats) -> Floats:
    """F1 over all labels together.

    Args:
        sums: (..., 3), numbers of labels that are right, predicted and expected.
    """
    right, occurring = sums[..., 0], sums[..., 1] + sums[..., 2]
    f1: Floats = np.divide(2 * right, occurring, out=np.zeros_like(right), where=occurring > 0)
    return f1


def per_label(expected: Flags, predicted: Flags) -> list[tuple[float, float, float, int]]:
    """Returns precision, recall, F1 and support of each label; 0 where one is not defined.

    Args:
        expected, predicted: (rows, labels).
    """
    right, predictions, support = (
        flags.sum(axis=0) for flags in (expected & predicted, predicted, expected)
    )
    rows = []
    for hits, guesses, true in zip(
        right.tolist(), predictions.tolist(), support.tolist(), strict=True
    ):
        precision, recall = hits / max(guesses, 1), hits / max(true, 1)
        rows.append((precision, recall, 2 * hits / max(guesses + true, 1), true))
    return rows


def best_threshold(probabilities: Floats, expected: Flags) -> float:
    """Returns the threshold with the highest F1 of one label; among equal ones, that nearest to
    0.5.

    Candidates are 0.5 and the middles between neighbouring probabilities. A text has the label if
    its probability is at least the threshold.

    Args:
        probabilities, expected: (rows,).
    """
    if not expected.any():
        return MIDDLE
    values = np.unique(probabilities)
    middles = np.concatenate([values[:1] / 2, (values[:-1] + values[1:]) / 2])
    candidates = np.append(middles, MIDDLE)
    predicted = len(probabilities) - np.searchsorted(np.sort(probabilities), candidates)
    positives = np.sort(probabilities[expected])
    right = len(positives) - np.searchsorted(positives, candidates)
    f1 = 2 * right / (predicted + len(positives))
    best = candidates[f1 == f1.max()]
    return float(best[np.abs(best - MIDDLE).argmin()])


METRICS = {
    "micro_f1": Metric("micro_f1", statistic=micro_f1, bounded=True),
    "macro_f1": Metric("macro_f1", statistic=macro_f1, bounded=True),
    "subset_accuracy": Metric("subset_accuracy", bounded=True),
}
"""The sums of micro F1 are of labels that are right, predicted and expected; those of macro F1 are
of `label_counts`; those of subset accuracy are of right rows and of rows."""
