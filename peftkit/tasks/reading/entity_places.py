"""Reads the places of two entities: spans of characters or of words, or numbers of entities."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.rows import is_missing
from peftkit.tasks.reading.entity_marks import overlap, trimmed
from peftkit.tasks.reading.spans import wrong_bounds, wrong_span
from peftkit.tasks.reading.tagged_words import wrong_words
from peftkit.tasks.reading.text_words import Span, joined

Place = tuple[int, int, str]
"""Start, end, and the entity's text; empty if the row does not give it."""


def read_in_text(
    text: Any, head: Any, tail: Any, columns: tuple[str, str, str]
) -> tuple[str, Span, Span] | str:
    """Returns a text and the spans of its two entities in characters, or says what is malformed.

    Args:
        columns: names of the three values in messages.
    """
    if not isinstance(text, str):
        return f"{columns[0]} is {type(text).__name__}, not text"
    if not text.strip():
        return f"empty {columns[0]}"
    first, second = _span_in_text(text, head, columns[1]), _span_in_text(text, tail, columns[2])
    if isinstance(first, str) or isinstance(second, str):
        return first if isinstance(first, str) else str(second)
    return _overlapping([first, second], columns) or (text, first, second)


def read_in_words(
    words: Any, head: Any, tail: Any, columns: tuple[str, str, str]
) -> tuple[str, Span, Span] | str:
    """Joins words to a text, and returns it with the spans of its two entities in characters, or
    says what is malformed.

    Args:
        head, tail: places in the list of words.
        columns: names of the three values in messages.
    """
    if wrong := wrong_words(words, columns[0]):
        return wrong
    text, places = joined(words)
    inside = []
    for value, column in ((head, columns[1]), (tail, columns[2])):
        place = read_place(value, column)
        if isinstance(place, str):
            return place
        if wrong := wrong_bounds(*place[:2], len(words), "word"):
            return f"{column} {wrong}"
        found = joined(words[place[0] : place[1]])[0]
        if place[2] and _spaceless(place[2]) != _spaceless(found):
            return f"{column} is the words `{found[:40]}`, and not `{place[2][:40]}`"
        inside.append(place[:2])
    if wrong := _overlapping(inside, columns):
        return wrong
    head_span, tail_span = ((places[start][0], places[end - 1][1]) for start, end in inside)
    return text, head_span, tail_span


def read_place(value: Any, column: str) -> Place | str:
    """Returns the place of an entity, or says why a value is none.

    Args:
        value: a start and an end, as a list or as an object, which may also hold `text`; or the
            same as JSON.
    """
    if is_missing(value) or value == "":
        return f"empty {column}"
    found = parsed(value)
    text = ""
    if isinstance(found, Mapping):
        text = found.get("text", found.get("name", ""))
        found = [found.get("start"), found.get("end")]
    if not isinstance(found, list | tuple) or len(found) != 2 or not isinstance(text, str):
        return f"{column} has {f'{value!r}':.60}, not a start and an end"
    start, end = found
    if absent := [name for name, place in (("start", start), ("end", end)) if place is None]:
        return f"{column} has {f'{value!r}':.60}, without `{absent[0]}`"
    if type(start) is not int or type(end) is not int:
        return f"{column} has {f'{value!r}':.60}, where start and end are not whole numbers"
    return start, end, text


def entity_of(value: Any, entities: Any, columns: tuple[str, str]) -> Any:
    """Returns the entity with a number, or a text that says what is malformed.

    Args:
        value: the number, from 0.
        entities: a list of entities with their places.
        columns: names of the two values in messages.
    """
    number, listed = parsed(value), parsed(entities)
    if not isinstance(listed, list):
        return f"{columns[1]} is {type(listed).__name__}, not a list of entities"
    if type(number) is not int:
        return f"{columns[0]} has {f'{value!r}':.60}, not the number of an entity"
    if not 0 <= number < len(listed):
        return f"{columns[0]} is {number}, and {columns[1]} has {len(listed)} entities"
    found = listed[number]
    return found if isinstance(found, Mapping | list | tuple) else f"{columns[1]} has no places"


def parsed(value: Any) -> Any:
    """Returns the value of a text that holds a JSON list, object or number; else the value."""
    if not isinstance(value, str):
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError):
        return value


def _span_in_text(text: str, value: Any, column: str) -> Span | str:
    """Returns the span of an entity without white space at its ends, or says what is malformed."""
    place = read_place(value, column)
    if isinstance(place, str):
        return place
    if wrong := wrong_span(text, *place):
        return f"{column} {wrong}"
    span = trimmed(text, place[:2])
    if span[0] == span[1]:
        return f"{column} is {place[0]} to {place[1]}, where the text has only white space"
    return span


def _overlapping(spans: Sequence[Span], columns: tuple[str, str, str]) -> str:
    """Says where two spans overlap; empty if they do not."""
    (start, end), (other, stop) = spans
    if not overlap(*spans):
        return ""
    return f"{columns[1]} {start} to {end} and {columns[2]} {other} to {stop} overlap"


def _spaceless(text: str) -> str:
    return "".join(text.split())
