"""Recognizes tables of texts and summaries by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peftkit.data.column_looks import inspect_columns, named_pair
from peftkit.data.rows import Table
from peftkit.tasks.offers import Fit, Offer, Reading

PAIRS: Final = tuple(
    (text, summary)
    for text in ("document", "article", "text", "dialogue", "content", "body", "report")
    for summary in ("summary", "highlights", "abstract", "tldr", "synopsis", "headline")
)
"""Usual names of the two columns with a text and its summary."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields the pair of text columns with usual names."""
    columns = inspect_columns(table)
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if pair := named_pair(texts, PAIRS):
        yield Reading({"text": pair[0], "summary": pair[1]}, Fit.BY_NAMES)


OFFER: Final = Offer(
    reads="a text and its summary",
    readings=readings,
    base="packaged:smollm2-135m-instruct",
)
