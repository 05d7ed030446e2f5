"""Reads a question with its context and answers from a row, or from a user's input."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from peftkit.data.squad import TITLE
from peftkit.errors import RecipeError
from peftkit.tasks.reading.answer_spans import read_answers, unmarked
from peftkit.tasks.reading.labels import is_empty


@dataclass(frozen=True)
class QuestionColumns:
    """The names of the columns."""

    context: str
    question: str
    answers: str
    answer_start: str
    """Empty if there is no such column."""
    is_impossible: str


def read_question(
    values: Mapping[str, object], columns: QuestionColumns
) -> dict[str, object] | str:
    """Returns `context` and `question` without byte order marks, and as `shift` the number of marks
    before the context if there are some; or a string that says what is malformed.
    """
    context, question = values.get(columns.context), values.get(columns.question)
    for name, text in ((columns.context, context), (columns.question, question)):
        if text is not None and not isinstance(text, str):
            return f"{name} is {type(text).__name__}, not text"
    if not question or is_empty(str(question)):
        return f"empty {columns.question}"
    if not context or is_empty(str(context)):
        return f"question without a {columns.context}"
    return _without_marks(str(context), str(question))


def read_answered(
    values: Mapping[str, object], columns: QuestionColumns
) -> dict[str, object] | str:
    """Returns what `read_question` does, with `answers` and, if there is one, the article's
    `title`; or a string that says what is malformed, and with which question if it has an id.
    """
    read = read_question(values, columns)
    if not isinstance(read, str):
        names = (columns.answers, columns.answer_start or "answer_start", columns.is_impossible)
        starts = values.get(columns.answer_start) if columns.answer_start else None
        impossible, whole = values.get(columns.is_impossible), str(values[columns.context])
        answers = read_answers(values.get(columns.answers), starts, impossible, whole, names)
        if not isinstance(answers, str):
            shift = len(whole) - len(str(read["context"]))
            placed = tuple((text, start - shift) for text, start in answers)
            title = {TITLE: str(values[TITLE])} if values.get(TITLE) else {}
            return {**read, "answers": placed, **title}
        read = answers
    number = values.get("id")
    return f"question {number}: {read}" if isinstance(number, str | int) else read


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
