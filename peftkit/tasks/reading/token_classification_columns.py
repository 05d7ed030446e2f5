"""The columns by which words with a label each are recognized."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Any, Final

from peftkit.data.column_looks import Column, inspect_columns
from peftkit.data.rows import Table
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.word_checks import wrong_labels, wrong_words

FITTING = 0.9
"""Share of the rows that must fit, so that a few malformed ones hide nothing."""


def readings(table: Table) -> Iterator[Reading]:
    """Each list of words with each list of as many labels: no other task reads such lists."""
    columns = inspect_columns(table)
    lists = [column for column in columns.values() if column.looks == "lists"]
    found = [(a.name, b.name) for a, b in permutations(lists, 2) if _labels(a, b)]
    known = {labels for _, labels in found}
    found = [(words, labels) for words, labels in found if words not in known]
    for words, labels in found:
        yield Reading({"tokens": words, "labels": labels}, Fit.BY_NAMES)


def _labels(words: Column, labels: Column) -> bool:
    """Whether nearly each list of words has a list of as many labels, which repeat more often."""
    pairs = list(zip(words.values, labels.values, strict=True))
    fit = [(some, told) for some, told in pairs if _belong_together(some, told)]
    vocabulary = {word for some, _ in fit for word in some}
    known = {str(label) for _, told in fit for label in told}
    return len(fit) >= FITTING * len(pairs) and len(known) < len(vocabulary)


def _belong_together(words: Any, labels: Any) -> bool:
    if wrong_words(words, "") or not isinstance(labels, list) or wrong_labels(labels, ""):
        return False
    return len(words) == len(labels)


OFFER: Final = Offer(
    reads="a list of words and a list of their labels",
    readings=readings,
    base="packaged:minilm-l6",
)
