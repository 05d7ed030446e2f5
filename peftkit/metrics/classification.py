"""Scores of a classifier."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from peftkit.metrics.metric import Metric

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class ClassificationScores:
    """The scores of a classifier's predictions."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: tuple[tuple[float, float, float, int], ...]
    """Precision, recall, F1 and support of each label."""
    confusion_matrix: tuple[tuple[int, ...], ...]
    """Numbers of examples: expected labels in rows, predicted labels in columns."""

    def metrics(self) -> dict[str, float]:
        """Accuracy, macro F1 and weighted F1 by name."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
        }


def classification_scores(
    predictions: Any, references: Any, num_labels: int
) -> ClassificationScores:
    """Computes a classifier's scores from label indices below `num_labels`."""
    labels = list(range(num_labels))
    with warnings.catch_warnings():  # labels never predicted: precision 0
        warnings.simplefilter("ignore")
        per_class = precision_recall_fscore_support(
            references, predictions, labels=labels, zero_division=0
        )
    counts: Counts = confusion_matrix(references, predictions, labels=labels)
    predicted, expected = counts.sum(axis=0), counts.sum(axis=1)
    sums = np.concatenate([counts.diagonal(), predicted, expected]).astype(np.float64)
    return ClassificationScores(
        accuracy=float(counts.trace() / counts.sum()),
        macro_f1=float(macro_f1(sums)),
        weighted_f1=float(np.average(per_class[2], weights=per_class[3])),
        per_class=tuple(
            (float(p), float(r), float(f), int(n)) for p, r, f, n in zip(*per_class, strict=True)
        ),
        confusion_matrix=tuple(map(tuple, counts.tolist())),
    )


def label_counts(expected: Counts, predicted: Counts, num_labels: int) -> Any:
    """What each example adds to the counts of each label; at most three entries per row are not 0.

    Args:
        expected, predicted: (examples,), indices of labels, or -1 for no label.

    Returns:
        (examples, 3 * labels) scipy sparse array, in blocks of columns: 1 for the label that is
        right, predicted, expected.
    """
    from scipy.sparse import csr_array

    shown = [(expected == predicted) & (expected >= 0), predicted >= 0, expected >= 0]
    rows = [here.nonzero()[0] for here in shown]
    labels = [
        expected[rows[0]],
        num_labels + predicted[rows[1]],
        2 * num_labels + expected[rows[2]],
    ]
    places = (np.concatenate(rows), np.concatenate(labels))
    return csr_array((np.ones(len(places[0])), places), (len(expected), 3 * num_labels))


def macro_f1(sums: Floats) -> Floats:
    """Mean F1 of the labels that any example expects or predicts, as in scikit-learn.

    Args:
        sums: (..., 3 * labels), sums of `label_counts`; the result has the shape (...,).
    """
    right, predicted, expected = by_label(sums)
    occurring = predicted + expected
    if (occurring > 0).all():
        means: Floats = (2 * right / occurring).mean(axis=-1)
        return means
    twice, times = 2 * right.reshape(-1, right.shape[-1]), occurring.reshape(-1, right.shape[-1])
    rows = ((a[b > 0] / b[b > 0]) for a, b in zip(twice, times, strict=True))
    found = [f1.mean() if len(f1) else 0.0 for f1 in rows]
    return np.array(found).reshape(right.shape[:-1])


def weighted_f1(sums: Floats) -> Floats:
    """Mean F1 of the labels, weighted by how often each label is expected.

    Args:
        sums: (..., 3 * labels), sums of `label_counts`; the result has the shape (...,).
    """
    right, predicted, expected = by_label(sums)
    occurring = predicted + expected
    f = np.divide(2 * right, occurring, out=np.zeros_like(right), where=occurring > 0)
    means: Floats = (f * expected).sum(axis=-1) / expected.sum(axis=-1)
    return means


METRICS = {
    "accuracy": Metric("accuracy", bounded=True),
    "macro_f1": Metric("macro_f1", statistic=macro_f1, bounded=True),
    "weighted_f1": Metric("weighted_f1", statistic=weighted_f1, bounded=True),
}
"""Metrics of a classifier. The sums of accuracy are of right examples and of examples; those of F1
are of `label_counts`."""


def by_label(sums: Floats) -> Floats:
    """Splits sums (..., 3 * labels) into right, predicted and expected: (3, ..., labels)."""
    return np.moveaxis(sums.reshape(*sums.shape[:-1], 3, -1), -2, 0)
