"""Reads the labels of a text from a list, or from a text with separators."""

from __future__ import annotations

import ast
import json
import re
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from peftkit.data.column_looks import ROWS_PER_CLASS, Column
from peftkit.data.rows import NOTHING, Table, is_missing
from peftkit.errors import quoted
from peftkit.tasks.reading.labels import is_empty, visible
from peftkit.wording import plural

NONE = "(none)"
"""Stands for no label in tables and answers."""
NO_LABEL = frozenset({*NOTHING, NONE, "n/a", "-", "\u2013", "\u2014"})
"""Texts, in lower case, that stand for no label in files."""
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
        names: label in the file -> its name; empty if labels are their own names. A word such as
            `nan` is a label only if it is one of them.
    """
    items = _items(value, column, separator)
    if isinstance(items, str):
        return items
    labels: set[str] = set()
    nothing = ""
    for item in items:
        if isinstance(item, int) and not isinstance(item, bool) and str(item) in names:
            item = str(item)  # noqa: PLW2901
        if wrong := _wrong(item):
            return f"{column} has {wrong}"
        label = item.strip()
        if _stands_for_none(label, names):
            nothing = label
            continue
        if names and label not in names and label not in names.values():
            return f"{column} `{label}` is not in label_names"
        labels.add(names.get(label, label))
    if nothing and labels:
        return f"{column} has `{nothing}`, which stands for no label, beside `{min(labels)}`"
    return tuple(sorted(labels))


def _items(value: object, column: str, separator: str) -> list[Any] | str:
    """Returns the items of a cell, or a text that says why there are none."""
    if is_missing(value):
        return []
    if isinstance(value, str):
        items = parsed_list(value)
        if items is None and is_open_list(value) and not separator:
            return f"{column} is `{visible(value)}`, which begins like a JSON list, but is none"
        return split_labels(value, separator) if items is None else items
    if isinstance(value, list | tuple):
        return list(value)
    return f"{column} is {type(value).__name__}, not a list of labels or a text"


def _stands_for_none(label: str, names: Mapping[str, str]) -> bool:
    known = label in names or label in names.values()
    return label.casefold() in NO_LABEL and not known


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


def with_noted_words(table: Table, column: str, separator: str, names: Mapping[str, str]) -> Table:
    """Returns the table with a note if words such as `nan` stand for no label in some rows.

    Args:
        separator, names: as for `label_set`.
    """
    words = [_only_word(row.get(column), separator, names) for _, row in table.rows]
    found = Counter(filter(None, words))
    if not found:
        return table
    note = (
        f"{plural(found.total(), 'row')} of `{table.name}` "
        f"{'has' if found.total() == 1 else 'have'} only {quoted(found)} in column `{column}`, "
        "which stands for no label; rename it if it is a label"
    )
    return replace(table, notes=(*table.notes, note))


def _only_word(value: object, separator: str, names: Mapping[str, str]) -> str:
    """Returns the word that stands for no label in a value; empty if the value has none."""
    items: Any = value
    if isinstance(value, str):
        items = parsed_list(value) or split_labels(value, separator)
    if not isinstance(items, list) or label_set(items, "", "", names) != ():
        return ""
    return str(items[0]).strip().casefold() if items else ""


def are_label_lists(column: Column) -> bool:
    """Whether a column has lists of labels, or such lists as JSON text: different texts in each
    list, which occur in several rows.
    """
    lists = [parsed_list(value) if isinstance(value, str) else value for value in column.present]
    return are_label_sets([value or [] for value in lists if _is_label_list(value)], len(lists))


def _is_label_list(value: object) -> bool:
    return isinstance(value, list) and not isinstance(label_set(value, "", "", {}), str)


def may_be_label_lists(column: Column) -> bool:
    """Whether a column has lists of texts."""
    return column.looks == "lists" and all(map(_is_label_list, column.present))


def are_label_sets(sets: Sequence[list[str]], count: int) -> bool:
    """Whether sets of labels have several labels, each of which occurs in several rows.

    Args:
        count: number of values in the column, among them values that are no such sets.
    """
    sets = [labels for labels in sets if len(set(labels)) == len(labels)]
    occurring = [label for labels in sets for label in labels]
    several = any(len(labels) > 1 for labels in sets)
    often = len(occurring) >= ROWS_PER_CLASS * len(set(occurring))
    return several and often and len(sets) >= FITTING * count
