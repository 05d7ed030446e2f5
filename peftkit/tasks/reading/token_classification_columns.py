"""Recognizes tables of words with a label for each word."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any, Final

from peftkit.data.column_looks import Column, inspect_columns
from peftkit.data.rows import Table
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.word_checks import wrong_labels, wrong_words

FITTING = 0.9
"""Least share of the rows that must have a label for each word; the others may be malformed."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a column of word lists and a column of label lists of the same lengths.
    No other task reads such lists.
    """
    columns = inspect_columns(table)
    lists = [column for column in columns.values() if column.looks == "lists"]
    pairs = [(a.name, b.name) for a, b in permutations(lists, 2) if _are_labelled(a, b)]
    known = {labels for _, labels in pairs}
    pairs = [(words, labels) for words, labels in pairs if words not in known]
    for words, labels in pairs:
        yield Reading({"tokens": words, "labels": labels}, Fit.BY_NAMES)


def _are_labelled(words: Column, labels: Column) -> bool:
    """Whether at least the share `FITTING` of the rows has a label for each word, and there are
    fewer different labels than different words.
    """
    rows = list(zip(words.values, labels.values, strict=True))
    fit = [(of_row, tags) for of_row, tags in rows if _is_labelled(of_row, tags)]
    vocabulary = {word for of_row, _ in fit for word in of_row}
    known = {str(label) for _, tags in fit for label in tags}
    return len(fit) >= FITTING * len(rows) and len(known) < len(vocabulary)


def _is_labelled(words: Any, labels: Any) -> bool:
    if wrong_words(words, "") or not isinstance(labels, list) or wrong_labels(labels, ""):
        return False
    return len(words) == len(labels)


OFFER: Final = Offer(
    reads="a list of words and a list of their labels",
    readings=readings,
    base="packaged:minilm-l6",
)
