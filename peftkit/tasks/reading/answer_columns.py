"""Recognizes tables of questions and answers to write by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peftkit.data.column_looks import inspect_columns
from peftkit.data.rows import Table
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.question_columns import ANSWERS, CONTEXTS, QUESTIONS
from peftkit.tasks.reading.text_classification_columns import named


def readings(table: Table) -> Iterator[Reading]:
    """Yields the columns with usual names for a question, its answer and perhaps a context. Other
    tasks read them too: a chat, or answers that are a part of the context.
    """
    columns = list(inspect_columns(table))
    questions, answers = named(columns, QUESTIONS), named(columns, ANSWERS)
    if questions and answers:
        context = {"context": contexts[0]} if (contexts := named(columns, CONTEXTS)) else {}
        found = {**context, "question": questions[0], "answers": answers[0]}
        yield Reading(found, Fit.POSSIBLE)


OFFER: Final = Offer(
    reads="a question and its answer",
    readings=readings,
    base="packaged:smollm2-135m-instruct",
)
