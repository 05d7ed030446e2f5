"""What the columns of a table look like, from some of its rows: text, classes, lists, numbers."""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from peftkit.data.rows import Table, is_nothing, text_columns
from peftkit.data.source import as_number

LOOKED_AT = 2000
"""Rows that are looked at, evenly spaced over the table."""
ROWS_PER_CLASS = 2
"""Rows of each different value, on average, from which on values may be classes."""
LONGEST_CLASS = 80
"""Characters of a usual class name, at most."""

Look = Literal["text", "classes", "lists", "objects", "numbers", "one value", "empty", "other"]


@dataclass(frozen=True)
class Column:
    """A column of a table, and what it looks like."""

    name: str
    looks: Look
    values: tuple[Any, ...]
    """Those of the rows that were looked at; None where there is no value."""

    @property
    def given(self) -> list[Any]:
        """The values that say something."""
        return [value for value in self.values if value is not None]


def looked_at(table: Table) -> dict[str, Column]:
    """Name -> column, of all columns of a table."""
    step = max(1, len(table.rows) // LOOKED_AT)
    rows = [values for _, values in table.rows[::step]][:LOOKED_AT]
    worded = set(text_columns(table))
    found = {}
    for name in table.columns:
        read = tuple(None if is_nothing(row.get(name)) else row[name] for row in rows)
        given = [value for value in read if value is not None]
        found[name] = Column(name, _look(given, name in worded), read)
    return found


def told(columns: Mapping[str, Column]) -> str:
    """`` `a` (text), `b` (numbers)``, for a message."""
    return ", ".join(f"`{name}` ({column.looks})" for name, column in columns.items())


def _look(given: list[Any], worded: bool) -> Look:
    if not given:
        return "empty"
    for kind, look in ((list, "lists"), (Mapping, "objects")):
        if sum(isinstance(value, kind) for value in given) > len(given) / 2:
            return look  # type: ignore[return-value]
    texts = [str(value).strip() for value in given]
    distinct = len(set(texts))
    if distinct == 1 and len(texts) > 1:
        return "one value"
    short = statistics.median(map(len, texts)) <= LONGEST_CLASS
    if short and len(texts) >= ROWS_PER_CLASS * distinct:
        return "classes"
    if worded:
        return "text"
    numbers = sum(as_number(text, ".") is not None for text in texts)
    return "numbers" if numbers > len(texts) / 2 else "other"
