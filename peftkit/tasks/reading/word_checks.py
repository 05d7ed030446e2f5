"""Checks that the values of a row are lists of words and of labels."""

from __future__ import annotations

from typing import Any


def wrong_words(words: Any, column: str) -> str:
    """Says why a value is not a list of words; empty if it is one."""
    if isinstance(words, str):
        return f"{column} is a text, not a list of words; JSON lines and Parquet have lists"
    if not isinstance(words, list):
        return f"{column} is {type(words).__name__}, not a list of words"
    if not words:
        return f"empty {column}"
    for place, word in enumerate(words, start=1):
        if not isinstance(word, str):
            return f"{column} has {type(word).__name__} as word {place}"
        if not word.strip():
            return f"{column} has an empty word {place}"
    return ""


def wrong_labels(labels: list[Any], column: str) -> str:
    """Says which value is not a label (a text or a whole number); empty if all are labels."""
    for place, label in enumerate(labels, start=1):
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            return f"{column} has {label!r} as label {place}"
    return ""
