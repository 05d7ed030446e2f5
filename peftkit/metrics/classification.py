"""Scores of a classifier."""

from __future__ import annotations

import warnings
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

from peftkit.metrics.evaluate_metric import EvaluateMetric

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]


class Classification(EvaluateMetric):
    """Accuracy, F1 and what they are made of, for class indices below `num_labels`.

    `compute(predictions=, references=)` gives `accuracy`, `macro_f1` (over the labels that the
    references or predictions have), `weighted_f1`, `per_class` (precision, recall, f1, support
    for every label) and `confusion_matrix` (expected in rows, predicted in columns).
    """

    kind = "int64"

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return asdict(classification_scores(predictions, references, self.num_labels))


@dataclass(frozen=True)
class ClassificationScores:
    """Of a classifier's predictions."""

    accuracy: float
    macro_f1: float
    weighted_f1: float
    per_class: tuple[tuple[float, float, float, int], ...]
    """Precision, recall, F1 and support of each label."""
    confusion_matrix: tuple[tuple[int, ...], ...]
    """Expected in rows, predicted in columns."""

    def metrics(self) -> dict[str, float]:
        """The numbers by name."""
        return {
            "accuracy": self.accuracy,
            "macro_f1": self.macro_f1,
            "weighted_f1": self.weighted_f1,
        }


def classification_scores(
    predictions: Any, references: Any, num_labels: int
) -> ClassificationScores:
    """What `Classification` computes, without the copy in a table that `evaluate` makes first."""
    labels = list(range(num_labels))
    with warnings.catch_warnings():  # a label that is never predicted has precision 0, said
        warnings.simplefilter("ignore")
        per_class = precision_recall_fscore_support(
            references, predictions, labels=labels, zero_division=0
        )
    counts: Counts = confusion_matrix(references, predictions, labels=labels)
    return ClassificationScores(
        accuracy=float(accuracy(counts[None])[0]),
        macro_f1=float(macro_f1(counts[None])[0]),
        weighted_f1=float(np.average(per_class[2], weights=per_class[3])),
        per_class=tuple(
            (float(p), float(r), float(f), int(n)) for p, r, f, n in zip(*per_class, strict=True)
        ),
        confusion_matrix=tuple(map(tuple, counts.tolist())),
    )


def accuracy(counts: Counts) -> Floats:
    """Share of the diagonal of confusion matrices, (matrices, labels, labels) -> (matrices,)."""
    shares: Floats = counts.trace(axis1=1, axis2=2) / counts.sum(axis=(1, 2))
    return shares


def macro_f1(counts: Counts) -> Floats:
    """Mean of the labels' F1, over labels that occur, expected or predicted (as scikit-learn), of
    confusion matrices: (matrices, labels, labels) -> (matrices,).
    """
    occurring = counts.sum(axis=1) + counts.sum(axis=2)  # (matrices, labels)
    right = 2 * counts.diagonal(axis1=1, axis2=2)
    if occurring.all():
        means: Floats = (right / occurring).mean(axis=1)
        return means
    pairs = zip(right, occurring, strict=True)
    return np.array([(twice[times > 0] / times[times > 0]).mean() for twice, times in pairs])
