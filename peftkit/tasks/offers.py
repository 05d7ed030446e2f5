"""How `peftkit new` begins a recipe of a task: by what columns it recognizes the task's rows."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from peftkit.data.rows import Table


class Fit(IntEnum):
    """How clearly a table is for a task. Of the readings of all tasks, those of the best fit count;
    a single one is taken, unless it is only possible.
    """

    POSSIBLE = 0
    """It may be meant; the user must say so."""
    BY_VALUES = 1
    """The values fit, whatever the columns are called."""
    BY_NAMES = 2
    """The columns have names that are usual for the task."""


@dataclass(frozen=True)
class Reading:
    """One way in which a task may read a table."""

    columns: Mapping[str, str]
    """Field of the task's `data` -> column of the table."""
    fit: Fit = Fit.POSSIBLE


@dataclass(frozen=True)
class Offer:
    """What a task says of itself to `peftkit new`."""

    reads: str
    """What each row must hold, for a message: `a text and a label`."""
    readings: Callable[[Table], Iterable[Reading]]
    """The ways in which the task may read a table; none where it does not fit."""
    base: str = ""
    """A base that suits the task and that an installable package ships; empty if there is none."""
    base_hint: str = ""
    """What to name as the base where there is none."""
    sample: Mapping[str, str] = field(default_factory=dict)
    """Fields of `data` for a packaged data set; empty if there is none."""
