"""Spans of a text whose places count bytes, or the UTF-16 units of JavaScript and Java."""

from __future__ import annotations

from collections.abc import Iterator

UNITS = (("bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2))
"""Unit, the encoding that it counts, and its size in bytes."""


def read_in_units(text: str, start: int, end: int) -> Iterator[tuple[str, str]]:
    """Yields each unit, and the part of a text from start to end if these count such units."""
    for unit, encoding, size in UNITS:
        part = text.encode(encoding, "surrogatepass")[size * start : size * end]
        yield unit, part.decode(encoding, "replace")


def places_in_units(text: str, place: int) -> Iterator[tuple[str, int]]:
    """Yields each unit, and the number of units before a character of a text."""
    for unit, encoding, size in UNITS:
        yield unit, len(text[:place].encode(encoding, "surrogatepass")) // size
