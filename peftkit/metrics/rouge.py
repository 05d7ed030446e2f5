"""ROUGE: overlap of written texts with the expected ones (Lin 2004, aclanthology.org/W04-1013).

F = 2 P R / (P + R)      P, R: common units as a share of the written ones (P) and of the expected
                         ones (R); units are words (1), pairs of words (2), or words of the longest
                         common subsequence (L)

A character of Chinese or Japanese counts as a word. Of several references, the one with the highest
F counts.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import partial
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
from rouge_score.rouge_scorer import RougeScorer

from peftkit.metrics.metric import TextMetric, Written

UNSPACED = (("\u3005", "\u3007"), ("\u3040", "\u30ff"), ("\u3400", "\u9fff"), ("\uf900", "\ufaff"))
"""Ranges of Chinese and Japanese characters, each of which counts as a word because texts have no
spaces."""
NAMES = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
"""Name of a metric -> rouge-score's name."""


def f_measures(texts: Sequence[Written], kind: str) -> npt.NDArray[np.float64]:
    """F of each text, from 0 to 1, and the text's weight, 1: (texts, 2).

    Args:
        kind: rouge-score's name.
    """
    scorer = RougeScorer([kind], tokenizer=_Words())
    best = [
        max(scorer.score(reference, text.text)[kind].fmeasure for reference in text.references)
        for text in texts
    ]
    return np.array([(f, 1.0) for f in best], np.float64)


def words(text: str) -> list[str]:
    """Splits a text of any script into casefolded words; characters of Chinese and Japanese are
    words.
    """
    found = [""]
    for character in text.casefold():
        if any(first <= character <= last for first, last in UNSPACED):
            found += [character, ""]
        elif character.isalnum() or unicodedata.category(character)[0] == "M":  # marks, accents
            found[-1] += character
        else:
            found.append("")
    return [word for word in found if word]


class _Words:
    """Replaces rouge-score's own tokenizer, which drops all characters but English letters and
    digits.
    """

    def tokenize(self, text: str) -> list[str]:
        """Splits a text into words."""
        return words(text)


ROUGE = {
    name: TextMetric(
        name, bounded=True, parts=partial(f_measures, kind=kind), least=20,
        signature="mean F over texts; units are words, and single characters of Chinese and "
        f"Japanese; no stemmer; rouge-score {version('rouge-score')}",
    )
    for name, kind in NAMES.items()
}  # fmt: skip
"""The metrics `rouge_1`, `rouge_2` and `rouge_l`: the mean F over texts."""
