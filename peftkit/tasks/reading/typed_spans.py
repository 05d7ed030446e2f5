"""Reads the entities of a text, which are spans of its characters with a type."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.data.rows import is_missing
from peftkit.metrics.entities import OUTSIDE
from peftkit.tasks.reading.spans import wrong_span

TypedSpan = tuple[int, int, str]
"""An entity in a text: index of its first character, index after its last one, type."""
LONGEST = 60
"""Most characters of a value that a message shows."""


def typed_spans(spans: Any, text: str, column: str) -> list[TypedSpan] | str:
    """Returns the entities of a text from left to right, or says which one is malformed.

    Args:
        spans: a list of entities; each has a start, an end, a label and perhaps its text.
        column: name of the column of `spans`.
    """
    if is_missing(spans):
        return []
    if not isinstance(spans, list):
        return f"{column} is {type(spans).__name__}, not a list of spans"
    found: list[TypedSpan] = []
    for span in spans:
        read = _typed_span(span, column)
        if isinstance(read, str):
            return read
        given = span.get("text") if isinstance(span, Mapping) else None
        if wrong := wrong_span(text, *read[:2], given if isinstance(given, str) else ""):
            return f"{column} {wrong}"
        found.append(read)
    found.sort()
    wrong = _overlapping(found)
    return f"{column} {wrong}" if wrong else found


def are_spans(value: Any) -> bool:
    """Whether a value is a list of entities with a start, an end and a type, or an empty list."""
    return isinstance(value, list) and not any(
        isinstance(_typed_span(one, ""), str) for one in value
    )


def _typed_span(span: Any, column: str) -> TypedSpan | str:
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


def _overlapping(spans: Sequence[TypedSpan]) -> str:
    """Says which two entities overlap; empty if none do."""
    for one, other in pairwise(spans):
        if one == other:
            return f"has {_shown(one)} twice"
        if other[0] < one[1]:
            return f"has {_shown(one)} and {_shown(other)}, which overlap"
    return ""


def _shown(span: TypedSpan) -> str:
    start, end, kind = span
    return f"{start} to {end} (`{kind}`)"
