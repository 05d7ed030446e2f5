"""What peftkit's scores have in common as metrics of `evaluate`, without a look at the Hub."""

from __future__ import annotations

from typing import ClassVar

import datasets
import evaluate


class EvaluateMetric(evaluate.Metric):  # type: ignore[misc]  # evaluate is untyped
    """Of `predictions` beside `references`, one value each; subclasses say of what kind."""

    kind: ClassVar[str]
    """Of a value, as `datasets` names it."""

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
