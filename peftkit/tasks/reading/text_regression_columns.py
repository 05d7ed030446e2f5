"""Recognizes tables of texts with a number for each, by their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair
from peftkit.data.rows import Table, folded_name
from peftkit.data.source import as_number
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.labels import scores_not_classes
from peftkit.tasks.reading.text_classification_columns import (
    PAIRS,
    TEXTS,
    may_be_label,
    named,
    with_usual_name,
)

SCORES: Final = (
    "score", "scores", "target", "label", "value", "rating", "grade", "points", "price",
)  # fmt: skip
"""Usual names of columns with a number to learn; the first one is the default."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a text column and a column of many different numbers. They are only
    possible if the table also has classes or several texts; a usual pair of texts has none.
    """
    columns = inspect_columns(table)
    numbers = [name for name, column in columns.items() if _may_be_score(column)]
    numbers = with_usual_name(numbers, SCORES)
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if named_pair(texts, PAIRS):
        return
    texts = with_usual_name(texts, TEXTS)
    by_names = named(numbers, SCORES) and named(texts, TEXTS)
    fit = Fit.BY_NAMES if by_names else Fit.BY_VALUES
    if len(texts) > 1 or any(map(may_be_label, columns.values())):
        fit = Fit.POSSIBLE
    for text in texts:
        for number in numbers:
            yield Reading({"text": text, "score": number}, fit)


def _may_be_score(column: Column) -> bool:
    """Whether a column holds numbers that are neither classes nor the numbers of the rows."""
    if column.looks not in ("numbers", "classes"):
        return False
    texts = [str(value).strip() for value in column.present]
    if not scores_not_classes(Counter(texts), lambda text: as_number(text, ".")):
        return False
    known = [number for text in texts if (number := as_number(text, ".")) is not None]
    whole = len(set(known)) == len(known) and all(number == int(number) for number in known)
    rising = all(low < high for low, high in pairwise(known))
    return not (whole and (rising or folded_name(column.name).endswith("id")))


OFFER: Final = Offer(
    reads="a text and a number",
    readings=readings,
    base="packaged:minilm-l6",
)
