"""Recognizes tables of questions with a context each and the answers in it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from peftkit.data.column_looks import Column, inspect_columns
from peftkit.data.rows import Table, folded_name, is_empty
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.answer_spans import read_answers

CONTEXTS: Final = ("context", "passage", "paragraph", "document", "article", "text", "content")
QUESTIONS: Final = ("question", "query", "question_text", "query_text")
ANSWERS: Final = ("answers", "answer", "answer_text", "span")
STARTS: Final = ("answer_start", "start", "answer_starts", "answer_offset")
"""Usual names of the columns, the most usual first."""
FITTING = 0.9
"""Least share of the rows whose answers must be in the context; the others may be malformed."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields the reading of a table with usual names for context, question and answers, if the
    answers are in the contexts.
    """
    columns = inspect_columns(table)
    context, question = _named(columns, CONTEXTS), _named(columns, QUESTIONS)
    answers, starts = _named(columns, ANSWERS), _named(columns, STARTS)
    if context is None or question is None or answers is None:
        return
    nothing = [None] * len(context.values)
    rows = zip(context.values, answers.values, starts.values if starts else nothing, strict=True)
    fit = [_fits(*row) for row in rows]
    if not any(fit) or fit.count(False) > (1 - FITTING) * len(fit):
        return
    named = {"context": context.name, "question": question.name, "answers": answers.name}
    if starts and answers.looks not in ("objects", "lists"):
        named["answer_start"] = starts.name
    yield Reading(named, Fit.BY_NAMES)


def _named(columns: Mapping[str, Column], usual: Sequence[str]) -> Column | None:
    """The first column with one of the names in `usual`."""
    by_name = {folded_name(name): column for name, column in columns.items()}
    found = (by_name.get(folded_name(name)) for name in usual)
    return next((column for column in found if column), None)


def _fits(context: Any, answers: Any, start: Any) -> bool | None:
    """Whether a row's answers are in its context; None if it has no answers."""
    if is_empty(answers) or answers == {"text": [], "answer_start": []}:
        return None
    if not isinstance(context, str):
        return False
    return not isinstance(read_answers(answers, start, None, context, ("", "", "")), str)


OFFER: Final = Offer(
    reads="a context, a question, and the answers with their places in the context",
    readings=readings,
    base="packaged:minilm-l6",
)
