"""Reads the scores of text pairs, and the names of their groups."""

from __future__ import annotations

import math
from collections.abc import Callable

from peftkit.data.rows import is_missing
from peftkit.tasks.reading.labels import is_empty

LARGEST = 1e15
"""Largest score; the square of a larger one is no float32."""


def read_score(value: object, column: str, number: Callable[[str], float | None]) -> float | str:
    """Returns a value as a finite number, or a string that says what is wrong with it.

    Args:
        column: the value's column, for the message.
        number: returns a text as a number, or None if the text is not a number.
    """
    if value is None or (isinstance(value, str) and is_empty(value)):
        return f"empty {column}"
    score = number(value) if isinstance(value, str) else None
    if isinstance(value, int | float):
        score = float(value) if abs(value) <= LARGEST else math.inf
    if score is None or not math.isfinite(score):
        return f"{column} is `{value}`, not a finite number"
    if abs(score) > LARGEST:
        return f"{column} is `{value}`, too large a number"
    return score


def read_name(value: object) -> str:
    """Returns the name of a group; empty if there is none."""
    return "" if is_missing(value) or is_empty(str(value)) else str(value).strip()
