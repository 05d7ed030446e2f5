"""Reads the entities of a text, which are marked as spans of its characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.data.rows import is_missing
from peftkit.metrics.entities import OUTSIDE
from peftkit.tasks.reading.other_units import read_in_units
from peftkit.wording import plural

Marked = tuple[int, int, str]
"""An entity in a text: index of its first character, index after its last one, type."""
OTHER_COUNTS = (
    (0, -1, "ends at the last character; give the place after it"),
    (1, 0, "counts from 1 to the last character; give places from 0 to after the last one"),
    (1, 1, "counts characters from 1; give places from 0"),
)
"""What to subtract from start and end so that they count as ours do, and how to say it."""
LONGEST = 60
"""Most characters of a value that a message shows."""


def marked_spans(spans: Any, text: str, column: str) -> list[Marked] | str:
    """Returns the entities of a text from left to right, or says which one is malformed.

    Args:
        spans: a list of entities; each has a start, an end, a label and perhaps its text.
        column: name of the column of `spans`.
    """
    if is_missing(spans):
        return []
    if not isinstance(spans, list):
        return f"{column} is {type(spans).__name__}, not a list of spans"
    marked: list[Marked] = []
    for span in spans:
        read = _marked(span, column)
        if isinstance(read, str):
            return read
        if wrong := _other_text(span, read, text) or _wrong_place(read, text):
            return f"{column} {wrong}"
        marked.append(read)
    marked.sort()
    wrong = _overlapping(marked)
    return f"{column} {wrong}" if wrong else marked


def are_spans(value: Any) -> bool:
    """Whether a value is a list of entities with a start, an end and a type, or an empty list."""
    return isinstance(value, list) and not any(isinstance(_marked(one, ""), str) for one in value)


def _marked(span: Any, column: str) -> Marked | str:
    """Returns an entity, or says what is wrong with its start, its end or its label."""
    if isinstance(span, Mapping):
        fields: Sequence[Any] = (
            span.get("start"), span.get("end"), span.get("label", span.get("type")),
        )  # fmt: skip
    elif isinstance(span, list | tuple) and len(span) == 3:
        fields = span
    else:
        return f"{column} has {span!r:.{LONGEST}}, not a start, an end and a label"
    start, end, kind = fields
    for name, place in (("start", start), ("end", end)):
        if place is None:
            return f"{column} has {span!r:.{LONGEST}}, without `{name}`"
        if type(place) is not int:
            kinds = {str: "a text", bool: "a truth value", float: "a float"}
            what = kinds.get(type(place), type(place).__name__)
            return f"{column} has the {name} {place!r:.{LONGEST}}, {what}, not a whole number"
    if not isinstance(kind, str) or not kind.strip():
        return f"{column} has {start} to {end} with the label {kind!r:.{LONGEST}}, not a name"
    if kind.strip() == OUTSIDE:
        return f"{column} has {start} to {end} with the label `{OUTSIDE}`, which means no entity"
    return start, end, kind.strip()


def _overlapping(marked: Sequence[Marked]) -> str:
    """Says which two entities overlap; empty if none do."""
    for one, other in pairwise(marked):
        if one == other:
            return f"has {_shown(one)} twice"
        if other[0] < one[1]:
            return f"has {_shown(one)} and {_shown(other)}, which overlap"
    return ""


def _other_text(span: Any, marked: Marked, text: str) -> str:
    """Says how an entity's places differ from the text that its span gives; empty if they agree,
    or if it gives none. Case and white space may differ.
    """
    given = span.get("text") if isinstance(span, Mapping) else None
    start, end, _ = marked
    if not isinstance(given, str) or not 0 <= start < end:
        return ""
    wanted, found = _plain(given), text[start:end]
    if _plain(found) == wanted:
        return ""
    for unit, part in read_in_units(text, start, end):
        if _plain(part) == wanted:
            return f"counts {unit}; give places in characters"
    for shift, stop, how in OTHER_COUNTS:
        if start >= shift and _plain(text[start - shift : end - stop]) == wanted:
            return how
    return f"has {start} to {end}, which is `{found:.30}` in the text, not `{given.strip():.30}`"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())


def _wrong_place(marked: Marked, text: str) -> str:
    """Says why an entity has no place in a text; empty if it has one."""
    start, end, _ = marked
    if start < 0 or end < 0:
        return f"has {start} to {end}; places count from 0"
    if start > end:
        return f"has {start} to {end}, whose start is after its end"
    if start == end:
        return f"has the empty span {start} to {end}"
    if end > len(text):
        return f"has {start} to {end}, outside the text of {plural(len(text), 'character')}"
    return ""


def _shown(marked: Marked) -> str:
    start, end, kind = marked
    return f"{start} to {end} (`{kind}`)"
