"""Metrics for the `evaluate` library that work without the Hub; no run imports it."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any, ClassVar

import datasets
import evaluate

from peftkit.metrics.classification import classification_scores


class EvaluateMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Compares `predictions` with `references`, one value of type `kind` for each example."""

    kind: ClassVar[str]
    """The `datasets` library's name for the type of a prediction or reference."""

    def __init__(self) -> None:
        super().__init__(keep_in_memory=True)

    def _info(self) -> evaluate.MetricInfo:
        value = datasets.Value(self.kind)
        return evaluate.MetricInfo(
            description=self.__class__.__doc__ or "",
            citation="",
            inputs_description=f"predictions, references: {self.kind}",
            features=datasets.Features({"predictions": value, "references": value}),
        )


class Classification(EvaluateMetric):
    """Accuracy, F1 and the counts behind them, for class indices below `num_labels`.

    `compute(predictions=, references=)` returns `accuracy`, `macro_f1` (over the labels that occur
    in the references or predictions), `weighted_f1`, `per_class` (precision, recall, F1, support
    for every label) and `confusion_matrix` (expected in rows, predicted in columns).
    """

    kind = "int64"

    def __init__(self, num_labels: int) -> None:
        super().__init__()
        self.num_labels = num_labels

    def _compute(self, predictions: Any, references: Any) -> dict[str, Any]:
        return asdict(classification_scores(predictions, references, self.num_labels))
