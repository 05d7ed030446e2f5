"""Checks spans of a text. Files also count bytes, or the UTF-16 units of JavaScript and Java, count
from 1, or end at the last character.
"""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.wording import plural

UNITS = (("bytes", "utf-8", 1), ("UTF-16 units", "utf-16-le", 2))
"""Unit, the encoding that it counts, and its size in bytes."""
OTHER_COUNTS = (
    (0, -1, "ends at the last character; give the place after it"),
    (1, 0, "counts from 1 to the last character; give places from 0 to after the last one"),
    (1, 1, "counts characters from 1; give places from 0"),
)
"""What to subtract from start and end so that they count as ours do, and how to say it."""
LONGEST = 40
"""Most characters of an entity that a message shows."""


def wrong_span(text: str, start: int, end: int, given: str = "") -> str:
    """Says what is wrong with a span, beginning with a verb; empty if nothing is.

    Args:
        given: the text that the file has for the span, or empty. Case and white space may differ.
    """
    disagrees = _other_text(text, start, end, given) if given.strip() and 0 <= start < end else ""
    outside = disagrees or wrong_bounds(start, end, len(text), "character")
    if outside and not disagrees and 0 <= start < end <= len(text.encode("utf-8", "surrogatepass")):
        outside += "; do the places count bytes?"
    return outside


def wrong_bounds(start: int, end: int, length: int, unit: str) -> str:
    """Says why a text of some length does not have a span, beginning with a verb; empty if it has.

    Args:
        unit: what start, end and length count, in the singular.
    """
    if start < 0 or end < 0:
        return f"has {start} to {end}; places count from 0"
    if start > end:
        return f"has {start} to {end}, whose start is after its end"
    if start == end:
        return f"has the empty span {start} to {end}"
    return f"has {start} to {end}, outside the text of {plural(length, unit)}" * (end > length)


def places_in_units(text: str, place: int) -> Iterator[tuple[str, int]]:
    """Yields each unit, and the number of units before a character of a text."""
    for unit, encoding, size in UNITS:
        yield unit, len(text[:place].encode(encoding, "surrogatepass")) // size


def _other_text(text: str, start: int, end: int, given: str) -> str:
    """Says how the text at a span differs from the one given for it; empty if it does not."""
    wanted, found = _plain(given), text[start:end]
    if _plain(found) == wanted:
        return ""
    shown, given = f"`{given.strip()[:LONGEST]}`", given.strip()
    place = text.find(given)
    right = f"; it is at {place} to {place + len(given)}" if text.count(given) == 1 else ""
    for unit, part in _read_in_units(text, start, end):
        if _plain(part) == wanted:
            return f"counts {unit}, not characters, for {shown}{right}"
    for shift, stop, how in OTHER_COUNTS:
        if start >= shift and _plain(text[start - shift : end - stop]) == wanted:
            return how
    return f"has {start} to {end}, which is `{found[:LONGEST]}` in the text, not {shown}{right}"


def _read_in_units(text: str, start: int, end: int) -> Iterator[tuple[str, str]]:
    """Yields each unit, and the part of a text from start to end if these count such units."""
    for unit, encoding, size in UNITS:
        part = text.encode(encoding, "surrogatepass")[size * start : size * end]
        yield unit, part.decode(encoding, "replace")


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
