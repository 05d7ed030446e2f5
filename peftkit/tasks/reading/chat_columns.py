"""Recognizes conversations, questions with answers and plain texts by their columns."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from peftkit.data.column_looks import inspect_columns
from peftkit.data.rows import Table, folded_name
from peftkit.errors import DataError
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.conversations import KINDS, Conversations

QUESTIONS: Final = (
    ("question", "answer"), ("query", "response"), ("prompt", "response"), ("input", "output"),
    ("user", "assistant"), ("instruction", "response"), ("question", "response"),
    ("document", "summary"), ("article", "summary"), ("text", "summary"),
)  # fmt: skip
"""Usual columns of a question and its answer, besides those that the task finds itself."""

SEVERAL = 3
"""Most columns of text with which every pair is offered."""


def readings(table: Table) -> Iterator[Reading]:
    """The usual columns of conversations; else two columns with text, or one of plain text."""
    columns = inspect_columns(table)
    try:
        usual = Conversations(path="-").layout(table).columns
    except DataError:
        usual = {}
    kinds = {role: column for role, column in usual.items() if role in KINDS}
    worded = ("text", "classes", "lists", "one value")
    if kinds and all(columns[column].looks in worded for column in kinds.values()):
        yield Reading(kinds, Fit.BY_NAMES)
        return
    texts = [name for name, column in columns.items() if column.looks == "text"]
    by_name = {folded_name(name): name for name in texts}
    for question, answer in QUESTIONS:
        if {question, answer} <= by_name.keys():
            fields = {"prompt": by_name[question], "completion": by_name[answer]}
            yield Reading(fields, Fit.BY_NAMES)
            return
    if any(column.looks == "classes" for column in columns.values()):
        return  # probably texts to be classified
    for question, answer in combinations(texts, 2) if len(texts) <= SEVERAL else ():
        yield Reading({"prompt": question, "completion": answer})
    for text in texts:
        # other characters are those of several columns with an unknown separator
        alone = len(columns) == 1 and re.fullmatch(r"[\w -]+", text)
        yield Reading({"text": text}, Fit.BY_VALUES if alone else Fit.POSSIBLE)


OFFER: Final = Offer(
    reads="messages, or a question and its answer, or plain text",
    readings=readings,
    base="packaged:smollm2-135m-instruct",
    sample={"path": "packaged:lantern-lane", "group": "scenario", "stratum": "language"},
)
