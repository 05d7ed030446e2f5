"""Finds what a table's columns hold, from a sample: text, classes, lists, numbers or other."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peftkit.data.rows import Table, folded_name, is_empty, text_columns
from peftkit.data.source import as_number

MOST_ROWS = 2000
"""Maximum number of rows to inspect, evenly spaced over the table."""
ROWS_PER_CLASS = 2
"""Minimum average number of rows for each distinct value in a column of classes."""
LONGEST_CLASS = 80
"""Maximum median length, in characters, of the values in a column of classes."""

Look = Literal["text", "classes", "lists", "objects", "numbers", "one value", "empty", "other"]


@dataclass(frozen=True)
class Column:
    """A column of a table, and the kind of values that it seems to hold."""

    name: str
    looks: Look
    values: tuple[Any, ...]
    """The values in the inspected rows; None for an empty value."""

    @property
    def present(self) -> list[Any]:
        """The values that are not empty."""
        return [value for value in self.values if value is not None]


def inspect_columns(table: Table) -> dict[str, Column]:
    """Inspects all columns of a table; returns name -> column."""
    step = max(1, len(table.rows) // MOST_ROWS)
    rows = [values for _, values in table.rows[::step]][:MOST_ROWS]
    worded = set(text_columns(table))
    columns = {}
    for name in table.columns:
        values = tuple(None if is_empty(row.get(name)) else row[name] for row in rows)
        present = [value for value in values if value is not None]
        columns[name] = Column(name, _look(present, name in worded), values)
    return columns


def named_pair(names: Iterable[str], pairs: Iterable[tuple[str, str]]) -> tuple[str, str] | None:
    """Returns the first pair of `pairs` whose two names are in `names`, in the spelling of `names`;
    None if there is no such pair. Case and separators do not matter.
    """
    by_name = {folded_name(name): name for name in names}
    usual = (tuple(by_name.get(folded_name(name), "") for name in pair) for pair in pairs)
    return next(((first, second) for first, second in usual if first and second), None)


def list_columns(columns: Mapping[str, Column]) -> str:
    """Lists columns for a message: `` `a` (text), `b` (numbers)``."""
    return ", ".join(f"`{name}` ({column.looks})" for name, column in columns.items())


def _look(present: list[Any], worded: bool) -> Look:
    if not present:
        return "empty"
    for kind, look in ((list, "lists"), (Mapping, "objects")):
        if sum(isinstance(value, kind) for value in present) > len(present) / 2:
            return look  # type: ignore[return-value]
    texts = [str(value).strip() for value in present]
    distinct = len(set(texts))
    if distinct == 1 and len(texts) > 1:
        return "one value"
    short = statistics.median(map(len, texts)) <= LONGEST_CLASS
    if short and len(texts) >= ROWS_PER_CLASS * distinct:
        return "classes"
    if worded:
        return "text"
    numbers = sum(number_in(text) is not None for text in texts)
    return "numbers" if numbers > len(texts) / 2 else "other"


def numbers_in(values: Iterable[Any]) -> list[float]:
    """Returns the numbers among values, which may be texts; others are left out."""
    read = (number_in(str(value)) for value in values)
    return [number for number in read if number is not None]


def number_in(text: str) -> float | None:
    """Returns a text as a number with the decimal mark `.` or, if it is none, `,`; else None."""
    number = as_number(text, ".")
    return as_number(text, ",") if number is None else number
