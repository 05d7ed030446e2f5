"""Finds the separator of labels in the texts of a column."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Any

from peftkit.data.column_looks import Column, number_in
from peftkit.data.rows import Table
from peftkit.errors import DataError, quoted
from peftkit.tasks.reading.label_sets import (
    NO_LABEL,
    are_label_sets,
    is_open_list,
    split_labels,
)
from peftkit.tasks.reading.labels import is_empty, visible

SEPARATORS = (";", "\uff1b", "|", "\u3001", ",", "\uff0c")
"""Separators that are detected: `;`, `|` and `,` with their wide forms, and the comma of Chinese
lists."""
IN_LABELS = ("\u3001", ",", "\uff0c")
"""Detected separators that may also be part of a label."""
OTHERS = ("/", " ")
"""Separators that are only asked about, because many labels contain them."""


def with_label_lists(tables: Mapping[str, Table], column: str) -> dict[str, Table]:
    """Detects the separator of a column's labels, and replaces texts that have it by lists.

    Raises:
        DataError: it is not clear what separates the labels.
    """
    cells = {
        name: [(number, row.get(column)) for number, row in table.rows]
        for name, table in tables.items()
    }
    separator = _detected(
        {v for of_table in cells.values() for _, v in of_table if _has_label(v)}, column,
        next(iter(tables.values())).name,
    )  # fmt: skip
    if not separator:
        return dict(tables)
    note = f"the labels in column `{column}` are separated at `{separator}`"
    split = {}
    for place, (name, table) in enumerate(tables.items()):
        rows = tuple(
            (number, {**row, column: split_labels(row[column], separator)})
            if _is_plain(row.get(column))
            else (number, row)
            for number, row in table.rows
        )
        split[name] = replace(table, rows=rows, notes=(*table.notes, *[note] * (place == 0)))
    return split


def _is_plain(value: object) -> bool:
    """Whether a value is a text, and not a list as text."""
    return isinstance(value, str) and not is_open_list(value)


def _has_label(value: object) -> bool:
    """Whether a value is a text with a label, and not a list as text."""
    if not isinstance(value, str) or is_open_list(value):
        return False
    return not is_empty(value) and value.strip().casefold() not in NO_LABEL


def _detected(cells: Iterable[Any], column: str, table: str) -> str:
    """Returns the separator in the cells; empty if none of `SEPARATORS` occurs.

    A comma may be part of a label (`IN_LABELS`). It is a separator only if the labels then are no
    more than the different cells, so that labels occur in several combinations.
    """
    texts = {str(cell).strip() for cell in cells}
    occurring = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if not occurring:
        occurring = [mark for mark in OTHERS if _combines(texts, mark)]
        if not occurring:
            return ""
    elif len(occurring) == 1:
        (mark,) = occurring
        parts = {part for text in texts for part in split_labels(text, mark)}
        if mark not in IN_LABELS or len(parts) <= len(texts):
            return mark
    example = min(text for text in texts if occurring[-1] in text)
    raise DataError(
        f"`{table}`: it is not clear what separates the labels in column `{column}`, such as "
        f"`{visible(example)}`; {quoted(occurring)} may",
        f"name the separator, such as `--task.data.label-separator '{occurring[0]}'`; with one "
        "that no cell has, each cell is one label",
    )


def _combines(texts: Collection[str], mark: str) -> bool:
    """Whether texts seem to be combinations of the same labels, separated by a mark.

    Args:
        texts: different texts.
    """
    sets = [split_labels(text, mark) for text in texts]
    parts = {part for labels in sets for part in labels}
    alone = parts <= set(texts) or 2 * len(parts) <= len(texts)
    return alone and len(parts) < len(texts) and sum(len(labels) > 1 for labels in sets) > 1


def are_separated_labels(column: Column) -> bool:
    """Whether a column has texts that seem to hold several labels with a separator: the same labels
    in several rows and combinations.
    """
    present = [str(value).strip() for value in column.present if _has_label(value)]
    texts = set(present)
    if sum(number_in(text) is not None for text in texts) > len(texts) / 2:
        return False
    for mark in (*SEPARATORS, *OTHERS):
        sets = [split_labels(text, mark) for text in present]
        distinct = {label for labels in sets for label in labels}
        fits = column.looks == "classes" and _combines(texts, mark)
        if mark in SEPARATORS:
            fits = len(distinct) <= len(texts)
        if fits and are_label_sets(sets, len(column.present)):
            return True
    return False
