"""Recognizes tables of texts with a number for each, by their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair, number_in, numbers_in
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.labels import scores_not_classes
from peftkit.tasks.reading.text_classification_columns import (
    LABELS,
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

    Without such a column, those with few numbers are yielded, which may be classes.
    """
    columns = inspect_columns(table)
    scores = [name for name, column in columns.items() if _may_be_score(column)]
    few = [name for name, column in columns.items() if _may_be_few_scores(column)]
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if named_pair(texts, PAIRS):
        return
    texts = with_usual_name(texts, TEXTS)
    for number in with_usual_name(scores or few, SCORES):
        usual, others = named([number], SCORES), {*columns} - {number}
        if len(texts) > 1 or any(may_be_label(columns[name]) for name in others):
            fit = Fit.POSSIBLE
        elif number in scores:
            fit = Fit.BY_NAMES if usual and named(texts, TEXTS) else Fit.BY_VALUES
        else:
            fit = Fit.BY_VALUES if usual and not named([number], LABELS) else Fit.POSSIBLE
        for text in texts:
            yield Reading({"text": text, "score": number}, fit)


def _may_be_score(column: Column) -> bool:
    """Whether a column holds numbers that are neither classes nor the numbers of the rows."""
    texts = [str(value).strip() for value in column.present]
    if column.looks not in ("numbers", "classes") or not scores_not_classes(
        Counter(texts), number_in
    ):
        return False
    known = numbers_in(column.present)
    whole = len(set(known)) == len(known) and all(number == int(number) for number in known)
    return not (whole and (_are_rising(known) or folded_name(column.name).endswith("id")))


def _may_be_few_scores(column: Column) -> bool:
    """Whether a column holds numbers that may also be classes. Numbers that rise from row to row
    must have a usual name, because they may number the rows.
    """
    known = numbers_in(column.present)
    if column.looks not in ("numbers", "classes") or len(known) < len(column.present):
        return False
    return bool(named([column.name], SCORES)) or not (
        _are_rising(known) or folded_name(column.name).endswith("id")
    )


def _are_rising(numbers: Sequence[float]) -> bool:
    return all(low < high for low, high in pairwise(numbers))


OFFER: Final = Offer(
    reads="a text and a number",
    readings=readings,
    base="packaged:minilm-l6",
)
