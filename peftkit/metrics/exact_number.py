"""Exact match of the number that ends a written solution (Cobbe et al. 2021, arXiv:2110.14168).

A solution gives its answer after `####`; one that does not is wrong. Numbers are compared as
numbers: `1,000`, `1000` and `$1000.00` are equal.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from decimal import Decimal

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import TextMetric, Written

ANSWER = re.compile(r"####\s*[^\d\s.-]{0,3}\s*(-?[\d,]*\.?\d+)")
"""The mark, at most three other characters such as a currency's, and the number."""


def final_number(text: str) -> Decimal | None:
    """Returns the number after the last `####` in a text; None if there is none."""
    found = ANSWER.findall(text)
    return Decimal(found[-1].replace(",", "")) if found else None


def right_numbers(texts: Sequence[Written]) -> npt.NDArray[np.float64]:
    """(texts, 2): 1 if the text's number is that of a reference, else 0; and the weight, 1."""
    found = []
    for text in texts:
        number = final_number(text.text)
        expected = map(final_number, text.references)
        found.append((float(number is not None and number in expected), 1.0))
    return np.array(found, np.float64)


EXACT_NUMBER = TextMetric(
    "exact_number", bounded=True, parts=right_numbers,
    signature="the number after the last `####`, compared as a number",
)  # fmt: skip
