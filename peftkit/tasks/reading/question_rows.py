"""Questions with their contexts and answers: the source, and how a row or an input is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peftkit.data.rows import Row
from peftkit.data.source import Source
from peftkit.data.squad import TITLE
from peftkit.errors import RecipeError
from peftkit.tasks.reading.answer_spans import read_answers, unmarked
from peftkit.tasks.reading.labels import is_empty

START = "answer_start"
"""Column that is read if the recipe names none."""


class Questions(Source):
    """A source of questions with a context each and the answers in it."""

    context: str = "context"
    """Column with the text that has the answer."""
    question: str = "question"
    """Column with the question."""
    answers: str = "answers"
    """Column with the answers: `{"text": [...], "answer_start": [...]}`, as in Hugging Face data
    sets and (flattened) SQuAD files, or one text. Empty if the context has no answer."""
    answer_start: str = ""
    """Column with the place of the answer's first character in the context, from 0, if `answers` is
    a text. If not given, it is the column `answer_start`, or there is none as each answer is once
    in its context."""
    is_impossible: str = "is_impossible"
    """Column that says whether the context has no answer; it may be missing."""


def read_question(values: Mapping[str, object], data: Questions) -> dict[str, object] | str:
    """Returns `context` and `question` without byte order marks, and as `shift` the number of marks
    before the context if there are some; or a string that says what is malformed.
    """
    context, question = values.get(data.context), values.get(data.question)
    for name, text in ((data.context, context), (data.question, question)):
        if text is not None and not isinstance(text, str):
            return f"{name} is {type(text).__name__}, not text"
    if not question or is_empty(str(question)):
        return f"empty {data.question}"
    if not context or is_empty(str(context)):
        return f"question without a {data.context}"
    return _without_marks(str(context), str(question))


def read_answered(values: Mapping[str, object], data: Questions) -> dict[str, object] | str:
    """Returns what `read_question` does, with `answers` and, if there is one, the article's
    `title`; or a string that says what is malformed, and with which question if it has an id.
    """
    read = read_question(values, data)
    if not isinstance(read, str):
        names = (data.answers, data.answer_start or START, data.is_impossible)
        starts = values.get(data.answer_start or START)
        impossible, whole = values.get(data.is_impossible), str(values[data.context])
        answers = read_answers(values.get(data.answers), starts, impossible, whole, names)
        if not isinstance(answers, str):
            shift = len(whole) - len(str(read["context"]))
            placed = tuple(_without_cut_marks(text, start - shift) for text, start in answers)
            title = {TITLE: str(values[TITLE])} if values.get(TITLE) else {}
            return {**read, "answers": placed, **title}
        read = answers
    number = values.get("id")
    return f"question {number}: {read}" if isinstance(number, str | int) else read


def with_all_answers(rows: Sequence[Row]) -> Row | None:
    """Returns the first of some rows with one question and one context, with the right answers of
    all; None if only some say that the context has an answer.
    """
    first, *others = (row.values["answers"] for row in rows)
    if any(bool(answers) != bool(first) for answers in others):
        return None
    more = dict.fromkeys(gold for answers in others for gold in answers if gold not in first)
    return replace(rows[0], values={**rows[0].values, "answers": (*first, *more)})


def _without_cut_marks(text: str, start: int) -> tuple[str, int]:
    """Returns an answer and its place in the context, whose first byte order marks are cut off.

    Args:
        start: negative if the answer begins with such marks.
    """
    return (text, start) if start >= 0 else (text[-start:], 0)


def input_question(value: Any) -> dict[str, object]:
    """Reads a mapping with `context` and `question`, or what `read_question` returned.

    Raises:
        RecipeError: one of them is missing or empty.
    """
    values = value if isinstance(value, Mapping) else {"context": value}
    for role in ("context", "question"):
        text = values.get(role)
        if not isinstance(text, str) or not text.strip():
            what = "no" if text is None else "an empty" if text == "" else "a wrong"
            raise RecipeError(
                f"the input has {what} {role}",
                'give `{"context": ..., "question": ...}`, or `--text` and `--question`',
            )
    return _without_marks(values["context"], values["question"], int(values.get("shift", 0)))


def _without_marks(context: str, question: str, shift: int = 0) -> dict[str, object]:
    """The values of a row.

    Args:
        shift: number of marks that were removed from the context before.
    """
    context, removed = unmarked(context)
    shift += removed
    read: dict[str, object] = {"context": context, "question": unmarked(question)[0]}
    return {**read, "shift": shift} if shift else read
