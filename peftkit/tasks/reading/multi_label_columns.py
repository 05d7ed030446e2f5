"""Recognizes tables of texts with lists of labels by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from peftkit.data.column_looks import inspect_columns, named_pair
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.label_sets import are_label_lists
from peftkit.tasks.reading.text_classification_columns import PAIRS, TEXTS, with_usual_name

LABELS: Final = ("labels", "label")
"""Usual names of columns with lists of labels."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a text column and a column of lists of labels."""
    columns = inspect_columns(table)
    labels = [name for name, column in columns.items() if are_label_lists(column)]
    texts = [name for name, column in columns.items() if column.looks == "text"]
    texts = [name for name in texts if name not in labels]
    pair = named_pair(texts, PAIRS)
    texts = [pair[0]] if pair else with_usual_name(texts, TEXTS)
    second = {"text_pair": pair[1]} if pair else {}
    for text in texts:
        for label in labels:
            usual = folded_name(label) in LABELS and (pair or folded_name(text) in TEXTS)
            fit = Fit.BY_NAMES if usual else Fit.BY_VALUES
            yield Reading({"text": text, **second, "labels": label}, fit)


OFFER: Final = Offer(
    reads="a text and a list of labels",
    readings=readings,
    base="packaged:minilm-l6",
)
