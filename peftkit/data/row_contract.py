"""The methods of a task that reading and dividing rows call."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from peftkit.data.rows import Row, Table
from peftkit.data.source import Source


@dataclass(frozen=True)
class Splits:
    """The rows of each split."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]

    def named(self) -> dict[str, tuple[Row, ...]]:
        """Name of each split -> its rows."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


class Strata(Protocol):
    """The methods of a task that dividing rows calls."""

    def key(self, row: Row) -> str:
        """Returns a text that is equal for rows with the same input."""

    def strata(self, rows: Sequence[Row]) -> Sequence[str]:
        """Returns (rows,), each row's value to spread evenly over the pieces, such as its label."""


class RowContract(Strata, Protocol):
    """The properties and methods of a task that splitting uses."""

    @property
    def source(self) -> Source:
        """Where the rows come from."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The task's name of each column -> its name in the file."""

    def adapt_tables(self, tables: Mapping[str, Table]) -> Mapping[str, Table]:
        """Returns all tables of the source with values that `read_row` reads."""

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """Returns the row's values under the task's names; if it is malformed, what is wrong."""

    def merged(self, rows: Sequence[Row]) -> Row | None:
        """Returns the row that stands for rows with the same key; None if they contradict each
        other.
        """

    def counted(self, rows: Sequence[Row]) -> Sequence[Sequence[str]]:
        """Returns the values of each row, such as its labels, that the ledger counts."""

    def group(self, row: Row) -> str:
        """Returns the name of the row's group, which stays in one split; empty without a group."""

    def columns_read(self, table: Table) -> Collection[str]:
        """Returns the table's columns that the task reads."""

    @property
    def stratum_column(self) -> str:
        """The column with the values of `counted`; empty if there is none."""

    def counted_unit(self, rows: Sequence[Row]) -> str:
        """Returns what `counted` counts, in the plural: `rows`, or parts such as `entities`."""

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raises DataError if the task cannot be learned from the rows with any split."""

    def check_splits(self, splits: Splits) -> None:
        """Raises DataError if the task cannot be learned or scored on these splits."""

    def remarks(self, splits: Splits) -> Iterable[str]:
        """Returns notes about the splits, for the user."""
