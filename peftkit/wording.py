"""Writes counts, times and long names for messages."""

from __future__ import annotations


def noun(count: float, word: str) -> str:
    """Returns a noun in the form for a count: `row` for 1, `rows` for any other number."""
    return word if count == 1 else f"{word}s"


def verb(count: float, word: str) -> str:
    """Returns a verb in the form for a count: `breaks` for 1, `break` for any other number."""
    return f"{word}s" if count == 1 else word


def has(count: float) -> str:
    """Returns `has` for 1, `have` for any other number."""
    return "has" if count == 1 else "have"


def plural(count: float, word: str) -> str:
    """Returns the number with its noun: `1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {noun(count, word)}"


def duration(seconds: float) -> str:
    """Returns a time in words: `0.4 s`, `12 s`, `3 min 5 s` or `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def shortened(name: str, length: int, end: int = 0) -> str:
    """Shortens a name to `length` characters: its beginning, `...` and its last `end` characters.

    The end is shown because labels often begin alike.
    """
    if len(name) <= length:
        return name
    return f"{name[: length - end - 3]}...{name[len(name) - end :]}"
