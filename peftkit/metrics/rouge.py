"""How much of a written answer is in the expected one (ROUGE-L; Lin 2004).

F = 2 P R / (P + R)      P, R: longest common subsequence, of the answer's and of the expected words
"""

from __future__ import annotations

import unicodedata
from typing import Any

from rouge_score.rouge_scorer import RougeScorer

from peftkit.metrics.evaluate_metric import EvaluateMetric

UNSPACED = (("\u3005", "\u3007"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))
"""Characters of Chinese and Japanese, which have no spaces: each counts as a word."""


class RougeL(EvaluateMetric):
    """`compute(predictions=, references=)` gives `rouge_l`, the mean over texts; 0 to 1."""

    kind = "string"

    def _compute(self, predictions: list[str], references: list[str]) -> dict[str, Any]:
        scorer = RougeScorer(["rougeL"], tokenizer=_Words())
        pairs = zip(references, predictions, strict=True)
        found = [float(scorer.score(*pair)["rougeL"].fmeasure) for pair in pairs]
        return {"rouge_l": sum(found) / len(found)}


class _Words:
    """In the place of rouge-score's own tokenizer, which drops all that is not English."""

    def tokenize(self, text: str) -> list[str]:
        """Words in lower case, whatever their script."""
        words = [""]
        for character in text.casefold():
            if any(first <= character <= last for first, last in UNSPACED):
                words += [character, ""]
            elif character.isalnum() or unicodedata.category(character)[0] == "M":  # marks, accents
                words[-1] += character
            else:
                words.append("")
        return [word for word in words if word]
