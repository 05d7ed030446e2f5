"""How much of a translation's characters are in the expected one (chrF; Popović 2015).

F = 5 P R / (4 P + R)      P, R: n-grams of 1 to 6 characters, over all texts together
"""

from __future__ import annotations

from typing import Any

from sacrebleu.metrics.chrf import CHRF

from peftkit.metrics.evaluate_metric import EvaluateMetric


class ChrF(EvaluateMetric):
    """`compute(predictions=, references=)` gives `chrf`, of all texts together; 0 to 1."""

    kind = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        return {"chrf": CHRF().corpus_score(predictions, [references]).score / 100}
