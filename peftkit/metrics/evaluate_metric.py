"""The base class of metrics for the `evaluate` library that work without the Hub."""

from __future__ import annotations

from typing import ClassVar

import datasets
import evaluate


class EvaluateMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Compares `predictions` with `references`, one value of type `kind` for each example."""

    kind: ClassVar[str]
    """Type of a value, by the names of the `datasets` library."""

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
