"""Reads the labels of a text from a list, or from a text with separators."""

from __future__ import annotations

import ast
import json
import math
import re
import warnings
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

from peftkit.data.column_looks import ROWS_PER_CLASS, Column
from peftkit.data.rows import Table
from peftkit.errors import DataError, quoted
from peftkit.tasks.reading.labels import is_empty, visible

SEPARATORS = (";", "|", ",")
"""Separators that are detected."""
NONE = "(none)"
"""Stands for no label in tables and answers."""
FITTING = 0.9
"""Least share of a column's values that are lists of different labels; others may be malformed."""


def label_set(
    value: object, column: str, separator: str, names: Mapping[str, str]
) -> tuple[str, ...] | str:
    """Returns the different labels of a cell, sorted, or a text that says what is malformed.

    Args:
        value: a list of labels, such a list as JSON text, or a text; a missing or blank value
            means no label.
        separator: separates the labels of a text; if empty, a text is one label.
        names: label in the file -> its name; empty if labels are their own names.
    """
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return ()
    items: Any = value
    if isinstance(value, str):
        items = parsed_list(value)
        if items is None and is_open_list(value) and not separator:
            return f"{column} is `{visible(value)}`, which begins like a JSON list, but is none"
        if items is None:
            items = split_labels(value, separator)
    if not isinstance(items, list | tuple):
        return f"{column} is {type(value).__name__}, not a list of labels or a text"
    labels = set()
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool) and str(item) in names:
            item = str(item)  # noqa: PLW2901
        if wrong := _wrong(item):
            return f"{column} has {wrong}"
        label = item.strip()
        if names and label not in names and label not in names.values():
            return f"{column} `{label}` is not in label_names"
        labels.add(names.get(label, label))
    return tuple(sorted(labels))


def _wrong(item: object) -> str:
    """Returns what is wrong with an item of a list of labels; empty if it is a label."""
    if isinstance(item, str):
        return "an empty label in its list" if is_empty(item) else ""
    if isinstance(item, int | float) and not isinstance(item, bool):
        return f"the number {item} in its list; name numbers in `label_names`"
    return f"{json.dumps(item, default=str):.40} in its list, which is not a text"


def joined(labels: Iterable[str]) -> str:
    """Returns a set of labels as readable text."""
    return ", ".join(labels) or NONE


def split_labels(text: str, separator: str) -> list[str]:
    """Splits a text at the separator, if there is one; drops empty parts."""
    parts = text.split(separator) if separator else [text]
    return [part.strip() for part in parts if not is_empty(part)]


def is_open_list(text: str) -> bool:
    """Whether a text begins as a JSON list does."""
    return text.lstrip()[:1] == "["


def parsed_list(text: str) -> list[Any] | None:
    """Returns the list in a text, which is JSON or a Python list as pandas writes it to CSV files;
    None if it is neither.
    """
    if not is_open_list(text):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = _python_list(text)
    return value if isinstance(value, list) else None


def _python_list(text: str) -> object:
    if re.search(r"""['"]\s+['"]""", text):  # an array as numpy writes it: Python would join words
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of backslashes
            return ast.literal_eval(text.strip())
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None


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
        {v for of_table in cells.values() for _, v in of_table if _is_plain(v)}, column,
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


def _detected(cells: Iterable[Any], column: str, table: str) -> str:
    """Returns the separator in the cells; empty if none of `SEPARATORS` occurs.

    A comma may be part of a label. It is a separator only if the labels then are no more than the
    different cells, so that labels occur in several combinations.
    """
    texts = {str(cell) for cell in cells}
    occurring = [mark for mark in SEPARATORS if any(mark in text for text in texts)]
    if not occurring:
        return ""
    parts = {part for text in texts for part in split_labels(text, occurring[0])}
    if len(occurring) == 1 and (occurring[0] != "," or len(parts) <= len(texts)):
        return occurring[0]
    example = min(text for text in texts if occurring[-1] in text)
    raise DataError(
        f"`{table}`: it is not clear what separates the labels in column `{column}`, such as "
        f"`{visible(example)}`; {quoted(occurring)} may",
        "name the separator, such as `--task.data.label-separator ';'`; with one that no cell has, "
        "each cell is one label",
    )


def are_label_lists(column: Column) -> bool:
    """Whether a column has lists of labels, or such lists as JSON text: different texts in each
    list, which occur in several rows.
    """
    lists = [parsed_list(value) if isinstance(value, str) else value for value in column.present]
    sets = [
        value
        for value in lists
        if isinstance(value, list)
        and not isinstance(label_set(value, "", "", {}), str)
        and len(set(value)) == len(value)
    ]
    occurring = [label for labels in sets for label in labels]
    several = any(len(labels) > 1 for labels in sets)
    often = len(occurring) >= ROWS_PER_CLASS * len(set(occurring))
    return several and often and len(sets) >= FITTING * len(lists)
