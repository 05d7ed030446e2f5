"""A row of the user's data, and what can be wrong with it."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftkit.errors import DataError, did_you_mean, quoted


@dataclass(frozen=True, slots=True)
class Row:
    """One example as the file has it, columns renamed to the task's."""

    number: int
    """Line in a text file (as an editor shows it), row from 1 elsewhere."""
    values: Mapping[str, Any]
    """The task's column (`text`, `label`, ...) -> value."""
    group: str = ""
    """Rows of one group stay in one split; empty where there are no groups."""


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that cannot be used, and why."""

    number: int
    kind: str


@dataclass(frozen=True)
class Table:
    """A file as read: rows of column -> value."""

    name: str
    """For messages: the path, and the split where there are several."""
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    """(number, column -> value)."""
    malformed: tuple[Malformed, ...] = ()
    unit: str = "row"
    """What the numbers count: `line` or `row`."""
    label_names: Mapping[str, Mapping[str, str]] | None = None
    """Column -> value -> name, where the source itself has names for its labels."""
    notes: tuple[str, ...] = ()
    """What a person should know about how it was read."""
    num_lines: int = 0
    """Of a text file; 0 of other sources."""
    continued: tuple[int, ...] = ()
    """Numbers of the lines that continue a quoted field of the row above."""


SAMPLED = 300
"""Rows that are looked at to tell what a column holds."""


def text_columns(table: Table) -> list[str]:
    """The columns that hold words or lists, not the same in all rows."""
    found = []
    sample = [values for _, values in table.rows[:SAMPLED]]
    for column in table.columns:
        given = [value for values in sample if (value := values.get(column)) not in (None, "", [])]
        words = [value for value in given if _has_words(value)]
        if len(words) > len(given) / 2 and any(value != words[0] for value in words):
            found.append(column)
    return found


def _has_words(value: Any) -> bool:
    if isinstance(value, str):
        return bool(re.search(r"[^\W\d_]{2}", value))
    return isinstance(value, Mapping | Sequence)


def check_columns(table: Table, columns: Mapping[str, str]) -> None:
    """Raises DataError if a table lacks one of the columns, task's name -> its name."""
    missing = [column for column in columns.values() if column not in table.columns]
    if missing and (table.rows or not table.malformed):
        guess = did_you_mean(missing[0], table.columns)
        role = next(role for role, column in columns.items() if column == missing[0])
        if len(table.columns) == 1 and (other := _separator_in(table.columns[0], columns.values())):
            guess = f"give `--task.data.separator '{other}'`"
        raise DataError(
            f"`{table.name}` has no column {quoted(missing)}; it has {quoted(table.columns)}",
            guess or f"say which column it is, for example `--task.data.{role} NAME`",
        )


def _separator_in(header: str, columns: Collection[str]) -> str:
    """The character that stands between the names of all columns in a header that was read as one
    name; empty if there is none.
    """
    others = {c for c in header if not c.isalnum() and c not in "_\"'"}
    return next((c for c in sorted(others) if {*columns} <= {*header.split(c)}), "")
