"""Recognizes tables of text pairs with scores by their columns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair, numbers_in
from peftkit.data.rows import Table, folded_name, text_columns
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.text_classification_columns import LABELS, may_be_label
from peftkit.tasks.reading.text_classification_columns import PAIRS as LABELLED_PAIRS

PAIRS: Final = (
    *LABELLED_PAIRS, ("query", "document"), ("query", "passage"), ("query", "candidate"),
    ("query", "title"), ("query", "product"), ("query", "text"), ("question", "passage"),
    ("question", "paragraph"), ("question", "answer"), ("query", "answer"), ("user", "item"),
    ("history", "item"),
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
QUERY_WORDS = 3
"""Minimum median number of words in a column of queries without a usual name."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of text columns with a column of numbers. Only columns with usual names are
    a clear fit; numbers that may be classes under another name are for the user to confirm, and so
    are scores beside labels.
    """
    columns = inspect_columns(table)
    texts, repeated = _texts(table, columns)
    named = named_pair(texts, PAIRS)
    if named is None and len(texts) != 2:
        return
    first, second = named or (texts[0], texts[1])
    groups, ids = _named(columns, QUERIES), _ids_of(columns[first], columns)
    numbers = [
        name for name, column in columns.items() if _numeric(column) and name not in (*groups, *ids)
    ]
    usual = _named(numbers, SCORES)
    for score in usual[:1] or numbers:
        clear = columns[score].looks == "numbers" and not repeated
        fit = Fit.BY_VALUES if clear else Fit.POSSIBLE
        if usual:
            fit = Fit.BY_NAMES if named else Fit.BY_VALUES
        others = [columns[name] for name in _named(columns, LABELS) if name != score]
        if any(map(may_be_label, others)):
            fit = Fit.POSSIBLE
        ranked = groups or (ids if min(_numbers(columns[score])) >= 0 else [])
        query = {"query": ranked[0]} if ranked else {}
        yield Reading({"text": first, "text_pair": second, "score": score, **query}, fit)


def _texts(table: Table, columns: dict[str, Column]) -> tuple[list[str], bool]:
    """Returns the columns that may hold the texts of pairs, and whether one of them repeats its
    texts, as queries repeat with each candidate.
    """
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if named_pair(texts, PAIRS):
        return texts, False
    worded = set(text_columns(table))
    repeated = [
        name for name, column in columns.items() if column.looks == "classes" and name in worded
    ]
    if pair := named_pair([*texts, *repeated], PAIRS):
        return list(pair), True
    if len(texts) > 1:
        return texts, False
    queries = [name for name in repeated if _may_be_query(columns[name])]
    return [name for name in columns if name in (*texts, *queries)], bool(queries)


def _may_be_query(column: Column) -> bool:
    """Whether a column of repeated values seems to hold texts rather than labels."""
    words = statistics.median(len(str(value).split()) for value in column.present)
    return words >= QUERY_WORDS and not _named([column.name], LABELS)


def _ids_of(text: Column, columns: dict[str, Column]) -> list[str]:
    """Returns the column of ids that name the different texts of a column."""
    ids = (one for name, one in columns.items() if folded_name(name).endswith("id"))
    return [one.name for one in ids if one.looks == "classes" and _same_groups(one, text)][:1]


def _same_groups(one: Column, other: Column) -> bool:
    """Whether two columns have equal values in the same rows."""
    pairs = set(zip(map(str, one.values), map(str, other.values), strict=True))
    return len(pairs) == len({first for first, _ in pairs}) == len({last for _, last in pairs})


def _numeric(column: Column) -> bool:
    """Whether all values of a column are numbers, but not whole numbers that all differ: ids."""
    if column.looks not in ("numbers", "classes"):
        return False
    numbers = _numbers(column)
    if not numbers or len(numbers) < len(column.present):
        return False
    return len(set(numbers)) < len(numbers) or any(number % 1 for number in numbers)


def _numbers(column: Column) -> list[float]:
    """Returns the numbers in a column; true and false are 1 and 0."""
    return numbers_in(int(v) if isinstance(v, bool) else v for v in column.present)


def _named(names: Sequence[str] | dict[str, Column], usual: Sequence[str]) -> list[str]:
    """Selects the names that are usual, in the order of `usual`."""
    return [name for one in usual for name in names if folded_name(name) == folded_name(one)]


OFFER: Final = Offer(
    reads="two texts and a number",
    readings=readings,
    base="packaged:minilm-l6",
)
