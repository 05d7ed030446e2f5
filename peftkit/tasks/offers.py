"""How `peftkit new` recognizes a task's rows by their columns, and what base its recipe names."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftkit.data.rows import Table


class Fit(IntEnum):
    """How clearly a table is for a task. Only the readings with the best fit over all tasks count;
    a single one is chosen, unless it is only possible.
    """

    POSSIBLE = 0
    """The user must confirm it."""
    BY_VALUES = 1
    """The values fit, whatever the columns are called."""
    BY_NAMES = 2
    """The columns have names that are usual for the task."""


@dataclass(frozen=True)
class Reading:
    """One way for a task to read a table."""

    columns: Mapping[str, str]
    """Field of the task's `data` -> column of the table."""
    fit: Fit = Fit.POSSIBLE


@dataclass(frozen=True)
class Offer:
    """What `peftkit new` knows of a task."""

    reads: str
    """What each row must hold, for a message: `a text and a label`."""
    readings: Callable[[Table], Iterable[Reading]]
    """The ways for the task to read a table; none where it does not fit."""
    base: str = ""
    """A base that suits the task and that an installable package ships; empty if there is none."""
    base_hint: str = ""
    """Which base to choose, where `base` is empty."""
    sample: Mapping[str, str] = field(default_factory=dict)
    """Fields of `data` for a packaged data set; empty if there is none."""
