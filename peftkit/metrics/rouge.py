"""ROUGE-L: overlap of a written answer with the expected one (Lin 2004).

F = 2 P R / (P + R)      P, R: longest common subsequence as a share of the written words (P) and of
                         the expected words (R)
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer

from peftkit.metrics.metric import TextMetric

UNSPACED = (("\u3005", "\u3007"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))
"""Ranges of Chinese and Japanese characters, each of which counts as a word because texts have no
spaces."""


def longest_common_f(expected: Sequence[str], written: Sequence[str]) -> npt.NDArray[np.float64]:
    """ROUGE-L F of each text, from 0 to 1, and the text's weight, 1: (texts, 2)."""
    scorer = RougeScorer(["rougeL"], tokenizer=_Words())
    pairs = zip(expected, written, strict=True)
    return np.array([(scorer.score(*pair)["rougeL"].fmeasure, 1.0) for pair in pairs], np.float64)


class _Words:
    """Replaces rouge-score's own tokenizer, which drops all characters but English letters and
    digits.
    """

    def tokenize(self, text: str) -> list[str]:
        """Splits a text of any script into casefolded words."""
        words = [""]
        for character in text.casefold():
            if any(first <= character <= last for first, last in UNSPACED):
                words += [character, ""]
            elif character.isalnum() or unicodedata.category(character)[0] == "M":  # marks, accents
                words[-1] += character
            else:
                words.append("")
        return [word for word in words if word]


ROUGE_L = TextMetric("rouge_l", bounded=True, parts=longest_common_f, least=20)
"""The mean ROUGE-L F over texts."""
