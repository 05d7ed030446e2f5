"""Recognizes tables of texts with lists of labels by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peftkit.data.column_looks import inspect_columns, named_pair
from peftkit.data.rows import Table
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.label_separators import are_separated_labels
from peftkit.tasks.reading.label_sets import are_label_lists, may_be_label_lists
from peftkit.tasks.reading.text_classification_columns import (
    LABELS,
    PAIRS,
    TEXTS,
    named,
    with_usual_name,
)

LISTS: Final = ("labels", "label")
"""Usual names of columns with lists of labels."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a text column and a column of lists of labels, or of texts with several
    labels. Without such a column, columns with any lists of texts are possible.
    """
    columns = inspect_columns(table)
    lists = [name for name, column in columns.items() if are_label_lists(column)]
    separated = [name for name, column in columns.items() if are_separated_labels(column)]
    clear = [*lists, *separated]
    labels = clear or [name for name, column in columns.items() if may_be_label_lists(column)]
    texts = [name for name, column in columns.items() if column.looks == "text"]
    texts = [name for name in texts if name not in labels]
    pair = named_pair(texts, PAIRS)
    texts = [pair[0]] if pair else with_usual_name(texts, TEXTS)
    second = {"text_pair": pair[1]} if pair else {}
    for text in texts:
        for label in labels:
            usual = named([label], LISTS if label in lists else LABELS)
            fit = Fit.BY_NAMES if usual and (pair or named([text], TEXTS)) else Fit.BY_VALUES
            columns_read = {"text": text, **second, "labels": label}
            yield Reading(columns_read, fit if label in clear else Fit.POSSIBLE)


OFFER: Final = Offer(
    reads="a text and a list of labels",
    readings=readings,
    base="packaged:minilm-l6",
)
