"""How `peftkit new` recognizes a task's rows by their columns, and which base it proposes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftkit.data.rows import Table


class Fit(IntEnum):
    """How clearly a table suits a task. `peftkit new` compares the readings of all tasks, and
    chooses the best one if it is the only one with its fit and better than `POSSIBLE`.
    """

    POSSIBLE = 0
    """The task can read the table, but the user must confirm that it fits."""
    BY_VALUES = 1
    """The values suit the task; the columns may have any names."""
    BY_NAMES = 2
    """The columns have usual names for the task."""
    UNMISTAKABLE = 3
    """No other task reads such values."""


@dataclass(frozen=True)
class Reading:
    """One way for a task to read a table."""

    columns: Mapping[str, str]
    """Field of the task's `data` -> column of the table."""
    fit: Fit = Fit.POSSIBLE


@dataclass(frozen=True)
class Offer:
    """What `peftkit new` needs to know to offer a task."""

    reads: str
    """What each row must hold, in words for a message: `a text and a label`."""
    readings: Callable[[Table], Iterable[Reading]]
    """Returns the ways in which the task can read a table; none if the table does not fit."""
    base: str = ""
    """A base that suits the task and that a package contains; empty if there is none."""
    sample: Mapping[str, str] = field(default_factory=dict)
    """Fields of `data` that select a packaged data set as an example; empty if there is none."""
