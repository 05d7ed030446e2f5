"""Precision, recall and F score of entities, as CoNLL-2000's conlleval counts them.

precision = right / predicted     recall = right / expected     F = 2 right / (predicted + expected)

An entity is right if its first word, its last word and its type are all right: the *strict* scheme
of SemEval-2013 task 9 (Segura-Bedmar et al. 2013); entity_schemes.py has the others.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.entities import Entity
from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float64]


def entity_counts(
    expected: Sequence[Collection[Entity]], predicted: Sequence[Collection[Entity]]
) -> Floats:
    """Counts the right, predicted and expected entities of each row, (rows, 3)."""
    rows = [
        (len({*true} & {*guesses}), len(guesses), len(true))
        for true, guesses in zip(expected, predicted, strict=True)
    ]
    return np.array(rows, np.float64).reshape(-1, 3)


def strict_f1(sums: Floats) -> Floats:
    """Right entities / the mean number of predicted and expected ones; 0 if there are none.

    Args:
        sums: (..., 3), sums of `entity_counts`; the result has the shape (...,).
    """
    right, predicted, expected = np.moveaxis(sums, -1, 0)
    return _share(2 * right, predicted + expected)


def strict_precision(sums: Floats) -> Floats:
    """Right entities / predicted entities; 0 if none is predicted.

    Args:
        sums: (..., 3), sums of `entity_counts`; the result has the shape (...,).
    """
    return _share(sums[..., 0], sums[..., 1])


def strict_recall(sums: Floats) -> Floats:
    """Right entities / expected entities; 0 if none is expected.

    Args:
        sums: (..., 3), sums of `entity_counts`; the result has the shape (...,).
    """
    return _share(sums[..., 0], sums[..., 2])


def _share(part: Floats, whole: Floats) -> Floats:
    return np.divide(part, whole, out=np.zeros(np.shape(whole)), where=whole > 0)


METRICS = {
    "strict_f1": Metric("strict_f1", statistic=strict_f1, bounded=True),
    "strict_precision": Metric("strict_precision", statistic=strict_precision, bounded=True),
    "strict_recall": Metric("strict_recall", statistic=strict_recall, bounded=True),
}
"""Metrics of sums of `entity_counts`."""
