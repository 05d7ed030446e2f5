"""What a task says about its rows: where they come from, how they are read, and which belong
together.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.data.source import Source

if TYPE_CHECKING:
    from peftkit.data.rows import Row, Table
    from peftkit.data.splits import Splits


class RowHooks:
    """The hooks of a task that data/ calls; see `data.row_contract.RowContract`."""

    @property
    def source(self) -> Source:
        """Where the rows come from."""
        raise NotImplementedError

    @property
    def columns(self) -> Mapping[str, str]:
        """The task's name for a column -> the column's name in the file."""
        raise NotImplementedError

    def read_row(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """Returns a row's values by the task's names, or a string that says what is malformed."""
        raise NotImplementedError

    def as_input(self, value: Any) -> dict[str, object]:
        """Turns a user's input, such as a text or a list of messages, into the values of a row.

        Raises:
            RecipeError: the task cannot read the input.
        """
        raise NotImplementedError

    def adapt_inputs(self, table: Table) -> Table:
        """Returns the table whose rows are answered, such as one with a row for each pair of
        entities.
        """
        return table

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        """Reads a row for prediction like `read_row`, but the row needs no answer.

        Raises:
            DataError: the table lacks a column.
        """
        raise NotImplementedError

    def key(self, row: Row) -> str:
        """A key that is equal for rows with the same content; it finds duplicates, conflicts and
        leaks.
        """
        raise NotImplementedError

    def group(self, row: Row) -> str:
        """A key that is equal for rows which must be in the same split; empty for a row that may be
        in any split. A column that the recipe names as `group` takes precedence.
        """
        return ""

    def stratum(self, row: Row) -> str:
        """The value by which rows are stratified, such as a label."""
        raise NotImplementedError

    def strata(self, rows: Sequence[Row]) -> Sequence[str]:
        """The stratum of each row, (rows,); override it if it depends on all rows, such as the
        quantile of a number.
        """
        return list(map(self.stratum, rows))

    def answer_key(self, row: Row) -> str:
        """A key of the row's answer. Rows with the same `key` and different answers contradict each
        other.
        """
        return self.stratum(row)

    def merged(self, rows: Sequence[Row]) -> Row | None:
        """The row that stands for rows with the same `key`; None if they contradict each other."""
        return rows[0] if len(set(map(self.answer_key, rows))) == 1 else None

    def counted(self, rows: Sequence[Row]) -> Sequence[Sequence[str]]:
        """The values of each row that the ledger counts in each split, such as its labels."""
        return [(stratum,) for stratum in self.strata(rows)]

    @property
    def stratum_column(self) -> str:
        """The column that `counted` comes from; empty if there is no such column."""
        return ""

    def counted_unit(self, rows: Sequence[Row]) -> str:
        """What `counted` counts, in the plural: `rows`, or parts of rows such as `entities`."""
        return "rows"

    def columns_read(self, table: Table) -> Collection[str]:
        """The columns of the table that the task reads; a note names other columns with text."""
        return set(self.columns.values())

    def check_rows(self, rows: Sequence[Row]) -> None:
        """Raises DataError if the task cannot be learned from these rows, whatever the splits."""

    def check_splits(self, splits: Splits) -> None:
        """Raises DataError if the task cannot be learned or scored on these splits."""

    def remarks(self, splits: Splits) -> Iterable[str]:
        """Notes on anything suspicious in the rows."""
        return ()
