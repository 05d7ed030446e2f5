"""A row of the user's data, and what can be wrong with it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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
