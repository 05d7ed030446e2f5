"""Recognizes tables of conversations, of questions and answers, or of plain texts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import combinations
from typing import Final

from peftkit.data.column_looks import inspect_columns, named_pair
from peftkit.data.rows import Table
from peftkit.errors import DataError
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.conversations import KINDS, Conversations

QUESTIONS: Final = (
    ("question", "answer"), ("query", "response"), ("prompt", "response"), ("input", "output"),
    ("user", "assistant"), ("instruction", "response"), ("question", "response"),
    ("document", "summary"), ("article", "summary"), ("text", "summary"),
)  # fmt: skip
"""Usual names of the columns with a question and its answer that `Conversations` does not know."""

SEVERAL = 3
"""Every pair of text columns is offered if a table has at most this many text columns."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields ways to read a table: its columns with usual names; else pairs of text columns, and
    each text column alone.
    """
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
    if pair := named_pair(texts, QUESTIONS):
        yield Reading({"prompt": pair[0], "completion": pair[1]}, Fit.BY_NAMES)
        return
    if any(column.looks == "classes" for column in columns.values()):
        return  # probably texts to be classified
    for question, answer in combinations(texts, 2) if len(texts) <= SEVERAL else ():
        yield Reading({"prompt": question, "completion": answer})
    for text in texts:
        # other characters suggest several columns with an unknown separator
        alone = len(columns) == 1 and re.fullmatch(r"[\w -]+", text)
        yield Reading({"text": text}, Fit.BY_VALUES if alone else Fit.POSSIBLE)


OFFER: Final = Offer(
    reads="messages, or a question and its answer, or plain text",
    readings=readings,
    base="packaged:smollm2-135m-instruct",
    sample={"path": "packaged:lantern-lane", "group": "scenario", "stratum": "language"},
)
