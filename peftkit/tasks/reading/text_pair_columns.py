"""Recognizes tables of text pairs with scores by their columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair
from peftkit.data.rows import Table, folded_name
from peftkit.data.source import as_number
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.text_classification_columns import LABELS, may_be_label
from peftkit.tasks.reading.text_classification_columns import PAIRS as LABELLED_PAIRS

PAIRS: Final = (
    *LABELLED_PAIRS, ("query", "document"), ("query", "passage"), ("query", "candidate"),
    ("query", "title"), ("query", "product"), ("query", "text"), ("question", "passage"),
    ("question", "paragraph"), ("user", "item"), ("history", "item"),
)  # fmt: skip
"""Usual names of the two columns with texts."""
SCORES: Final = (
    "score", "scores", "relevance", "similarity", "relevance_score", "similarity_score",
    "relatedness", "rating", "stars", "grade", "gain", "rank_label",
)  # fmt: skip
QUERIES: Final = (
    "query_id", "qid", "q_id", "question_id", "search_id", "session_id", "user_id", "topic_id",
    "group_id", "list_id",
)  # fmt: skip
"""Usual names of columns with scores, and with the names of groups of candidates."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of text columns with a column of numbers. Only columns with usual names are
    a clear fit; numbers that may be classes under another name are for the user to confirm, and so
    are scores beside labels.
    """
    columns = inspect_columns(table)
    texts = [name for name, column in columns.items() if column.looks == "text"]
    groups = _named(columns, QUERIES)
    named = named_pair(texts, PAIRS)
    if named is None and len(texts) != 2:
        return
    first, second = named or (texts[0], texts[1])
    numbers = [name for name, column in columns.items() if _numeric(column) and name not in groups]
    usual = _named(numbers, SCORES)
    for score in usual[:1] or numbers:
        fit = Fit.BY_VALUES if columns[score].looks == "numbers" else Fit.POSSIBLE
        if usual:
            fit = Fit.BY_NAMES if named else Fit.BY_VALUES
        others = [columns[name] for name in _named(columns, LABELS) if name != score]
        if any(map(may_be_label, others)):
            fit = Fit.POSSIBLE
        query = {"query": groups[0]} if groups else {}
        yield Reading({"text": first, "text_pair": second, "score": score, **query}, fit)


def _numeric(column: Column) -> bool:
    """Whether all values of a column are numbers, but not whole numbers that all differ: ids."""
    if column.looks not in ("numbers", "classes"):
        return False
    numbers = [as_number(str(value), ".") for value in column.present]
    if None in numbers:
        return False
    return len(set(numbers)) < len(numbers) or any(n % 1 for n in numbers if n is not None)


def _named(names: Sequence[str] | dict[str, Column], usual: Sequence[str]) -> list[str]:
    """Selects the names that are usual, in the order of `usual`."""
    return [name for one in usual for name in names if folded_name(name) == folded_name(one)]


OFFER: Final = Offer(
    reads="two texts and a number",
    readings=readings,
    base="packaged:minilm-l6",
)
