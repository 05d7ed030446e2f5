"""Recognizes tables of words with a label for each word, and of texts with spans of characters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import permutations
from typing import Any, Final

from peftkit.data.column_looks import Column, inspect_columns
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.tagged_words import wrong_labels, wrong_words
from peftkit.tasks.reading.typed_spans import are_spans

FITTING = 0.9
"""Least share of the rows that must have a label for each word, or spans; the others may be
malformed."""
USUAL = ("labels", "tags")
"""Usual names of the column with the tags."""
USUAL_TEXTS = ("text", "sentence", "content")


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a column of word lists and a column of label lists of the same lengths,
    and each pair of a column of texts and a column of spans. No other task reads such columns.
    """
    columns = inspect_columns(table)
    yield from _text_readings(columns)
    lists = [column for column in columns.values() if column.looks == "lists"]
    pairs = [(a.name, b.name) for a, b in permutations(lists, 2) if _are_labelled(a, b)]
    known = {labels for _, labels in pairs}
    pairs = [(words, labels) for words, labels in pairs if words not in known]
    for words, labels in pairs:
        usual = len(pairs) == 1 or folded_name(labels) in USUAL
        yield Reading({"tokens": words, "labels": labels}, Fit.BY_NAMES if usual else Fit.BY_VALUES)


def _text_readings(columns: Mapping[str, Column]) -> Iterator[Reading]:
    texts = [column.name for column in columns.values() if column.looks in ("text", "classes")]
    for column in columns.values():
        fit = [value for value in column.present if are_spans(value)]
        if column.looks == "lists" and len(fit) >= FITTING * len(column.present):
            for text in texts:
                usual = len(texts) == 1 or folded_name(text) in USUAL_TEXTS
                fits = Fit.BY_NAMES if usual else Fit.BY_VALUES
                yield Reading({"text": text, "spans": column.name}, fits)


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
    if wrong_words(words, "") or wrong_labels(labels, ""):
        return False
    return len(words) == len(labels)


OFFER: Final = Offer(
    reads="a list of words and a list of their labels, or a text and a list of spans",
    readings=readings,
    base="packaged:minilm-l6",
)
