"""What is odd about written texts: empty, repeating or copied ones, and their length."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import TextMetric, Written
from peftkit.metrics.rouge import words

Floats = npt.NDArray[np.float64]
RUN = 4
"""Length in words of the pieces that a repeating text repeats."""
TIMES = 3
"""How often a piece occurs in a text that repeats itself."""


def is_empty(text: Written) -> bool:
    """Whether a text has no words."""
    return not words(text.text)


def is_repeating(text: Written) -> bool:
    """Whether a text has some `RUN` words in a row `TIMES` times or more often, and no reference
    has.
    """
    return _repeats(text.text) and not any(map(_repeats, text.references))


def is_copied(text: Written) -> bool:
    """Whether a text has the words of its source, and no reference has them."""
    written = words(text.text)
    return written == words(text.source) != [] and written not in map(words, text.references)


def _repeats(text: str) -> bool:
    found = words(text)
    runs = Counter(tuple(found[place : place + RUN]) for place in range(len(found) - RUN + 1))
    return max(runs.values(), default=0) >= TIMES


def lengths(texts: Sequence[Written]) -> Floats:
    """(texts, 2): number of words written, and of the reference that is closest in length."""
    found = []
    for text in texts:
        written = len(words(text.text))
        expected = [len(words(reference)) for reference in text.references]
        found.append((written, min(expected, key=lambda count: (abs(count - written), count))))
    return np.array(found, np.float64)


@dataclass(frozen=True, kw_only=True)
class LengthRatio(TextMetric):
    """Words written, as a multiple of the references' words; 1 is best."""

    @property
    def direction(self) -> str:
        """What is better."""
        return "closer to 1"

    def goodness(self, value: float) -> float:
        """The distance from 1 on a logarithmic scale, negated."""
        return -abs(math.log(value)) if value > 0 else -math.inf


def _share(name: str, of: Callable[[Written], bool]) -> TextMetric:
    def parts(texts: Sequence[Written]) -> Floats:
        return np.array([(of(text), 1.0) for text in texts], np.float64)

    return TextMetric(name, higher_is_better=False, bounded=True, parts=parts)


SHARES = {
    "empty": _share("empty", is_empty),
    "repeating": _share("repeating", is_repeating),
    "copied": _share("copied", is_copied),
}
"""Shares of the texts; lower is better."""
WRITTEN = {**SHARES, "length_ratio": LengthRatio("length_ratio", parts=lengths)}
"""The metrics of this file."""
