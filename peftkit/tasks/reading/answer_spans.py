"""Reads the answers to a question, with their places in the context, in the forms that files have.

    {"text": ["in 1066"], "answer_start": [42]}     as in Hugging Face data sets; empty: no answer
    [{"text": "in 1066", "answer_start": 42}]       as in SQuAD files
    in 1066                                         a text, with its start in another column
    in 1066                                         a text that the context has once

Places count characters, that is Unicode code points, from 0.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.data.rows import is_empty, is_missing
from peftkit.tasks.reading.entity_places import parsed
from peftkit.tasks.reading.spans import places_in_units
from peftkit.wording import plural, shortened

Gold = tuple[str, int]
"""An answer, and the index of its first character in the context."""
BYTE_ORDER_MARK = "\ufeff"
"""Byte order mark, which some files have at the beginning of a text."""
LONGEST = 40
"""Longest answer in a message, in characters."""
TRUTH = {"true": True, "1": True, "1.0": True, "false": False, "0": False, "0.0": False}


def read_answers(
    answers: Any, starts: Any, impossible: Any, context: str, columns: Sequence[str]
) -> tuple[Gold, ...] | str:
    """Returns the answers with their places in the context, none if it has no answer; or a string
    that says what is malformed.

    Args:
        answers: value of the column with the answers.
        starts: value of the column with their starts, if there is one.
        impossible: value of the column that says that the context has no answer; None if unknown.
        columns: names of these three columns, for messages.
    """
    given = _pairs(answers, starts, columns)
    if isinstance(given, str):
        return given
    if wrong := _contradiction(given, impossible, columns[2]):
        return wrong
    if answers is None and not _truth(impossible):
        return f"no {columns[0]}; give an empty list if the context has no answer"
    found: list[Gold] = []
    for text, start in given:
        place = _place(text, start, context, columns[1])
        if isinstance(place, str):
            return place
        found.append((text, place))
    return tuple(found)


def _contradiction(given: Sequence[tuple[Any, Any]], impossible: Any, column: str) -> str:
    """Says how the answers contradict the cell that tells whether there are some; empty if they do
    not.
    """
    refused = _truth(impossible)
    if refused is None and not is_missing(impossible):
        return f"{column} is `{impossible}`, neither true nor false"
    if refused and given:
        return f"{column} is true, but there is an answer, {_shown(given[0][0])}"
    return f"no answer, but {column} is false" if refused is False and not given else ""


def unmarked(text: str) -> tuple[str, int]:
    """Returns a text without byte order marks at its beginning, and their number."""
    stripped = text.lstrip(BYTE_ORDER_MARK)
    return stripped, len(text) - len(stripped)


def _pairs(answers: Any, starts: Any, columns: Sequence[str]) -> list[tuple[Any, Any]] | str:
    """Returns (text, start) of each answer, unchecked; the start is None if there is none."""
    column, starts, nested = columns[0], _parsed(starts), _parsed(answers)
    if not isinstance(nested, list) or all(isinstance(one, str | Mapping) for one in nested):
        answers = nested  # `[2010]` is a text
    if isinstance(answers, Mapping):
        if answers.get("text") is None:
            return f"{column} is an object without `text`"
        answers, starts = answers["text"], answers.get("answer_start")
    if is_missing(answers) or (is_empty(answers) and is_empty(starts)):
        return []  # with a start, `None` is a text
    if isinstance(answers, str):
        answers, starts = [answers], starts if isinstance(starts, list) else [starts]
    if not isinstance(answers, Sequence):
        return f"{column} is {type(answers).__name__}, not text"
    if all(isinstance(one, Mapping) for one in answers):
        return [(one.get("text"), one.get("answer_start")) for one in answers]
    if is_missing(starts):
        starts = [None] * len(answers)
    if not isinstance(starts, Sequence) or isinstance(starts, str):
        starts = [starts]
    if len(starts) != len(answers):
        return f"{column} has {plural(len(answers), 'text')} and {plural(len(starts), 'start')}"
    return list(zip(answers, starts, strict=True))


def _parsed(value: Any) -> Any:
    """The value of a JSON list or object in a text; other values unchanged."""
    nested = isinstance(value, str) and value.strip()[:1] in ("{", "[")
    return parsed(value) if nested else value


def _truth(value: Any) -> bool | None:
    """The truth value of a cell; None if it has none."""
    return None if is_missing(value) else TRUTH.get(str(value).strip().casefold())


def _place(text: Any, start: Any, context: str, column: str) -> int | str:
    """Returns the place of an answer, or a string that says what is wrong with it."""
    if not isinstance(text, str) or not text.strip():
        return "an answer is empty" if text == "" else f"an answer is {text!r:.40}, not text"
    if is_missing(start) or start == "":
        return _only_place(text, context)
    if isinstance(start, str) and start.strip().lstrip("-").isdecimal():
        start = int(start)
    if not isinstance(start, int) or isinstance(start, bool):
        return f"{column} is `{start}`, not a whole number"
    if start < 0:
        return f"{column} is {start}, before the context"
    right = context[start : start + len(text)] == text
    return start if right else _elsewhere(text, start, context)


def _only_place(text: str, context: str) -> int | str:
    places = _places(text, context)
    if len(places) == 1:
        return places[0]
    if not places:
        return f"the answer {_shown(text)} is not in the context{_otherwise(text, context)}"
    return f"the context has the answer {_shown(text)} {len(places)} times; give its start"


def _elsewhere(text: str, start: int, context: str) -> str:
    """Says where an answer is that is not at its start, and how the start may be counted."""
    places = _places(text, context)
    if not places:
        where = f"at {start} or elsewhere{_otherwise(text, context)}"
        return f"the answer {_shown(text)} is not in the context, {where}"
    for place in places:
        for unit, count in places_in_units(context, place):
            if start == count != place:
                return (
                    f"the answer {_shown(text)} is not at {start}; found at {place}: the start "
                    f"counts {unit}, not characters"
                )
    nearest = min(places, key=lambda place: abs(place - start))
    from_one = ": the start counts from 1, not from 0" * (nearest == start - 1)
    return f"the answer {_shown(text)} is not at {start}; found at {nearest}{from_one}"


def _otherwise(text: str, context: str) -> str:
    """Says if a context has a text in other letters; empty if it does not."""
    if text.casefold() in context.casefold():
        return "; it is there with other upper and lower case"
    forms = (unicodedata.normalize("NFKC", one) for one in (text, context))
    return "; it is there in another Unicode form" if next(forms) in next(forms) else ""


def _places(text: str, context: str) -> list[int]:
    """All places where a context has a text."""
    places, place = [], context.find(text)
    while place >= 0:
        places.append(place)
        place = context.find(text, place + 1)
    return places


def _shown(text: str) -> str:
    return f"`{shortened(text, LONGEST)}`"
