"""Rows of a file that are to be answered."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.data.ledger import by_kind, describe_malformed
from peftkit.data.reading import read_file
from peftkit.data.rows import Malformed, Table
from peftkit.data.source import Source
from peftkit.errors import DataError, not_found
from peftkit.tasks.task import Task


def read_table(file: Path, source: Source) -> Table:
    """The rows of a file: of UTF-8, or in the encoding of the training's.

    Raises:
        DataError: there is no such file, or it cannot be read.
    """
    if not file.is_file():
        raise DataError(f"no file `{file}`", not_found(file))
    try:
        file.read_bytes().decode()
        encoding = ""
    except UnicodeDecodeError:
        encoding = source.encoding
    return read_file(file, Source(path=str(file), encoding=encoding))


def read_inputs(table: Table, task: Task) -> list[Any]:
    """What the task is to answer, one input for each row.

    Raises:
        DataError: a column is missing, or rows cannot be read.
    """
    malformed = list(table.malformed)
    inputs = []
    for number, values in table.rows:
        read = task.read_input(values, table)
        if isinstance(read, str):
            malformed.append(Malformed(number, read))
        else:
            inputs.append(read)
    if malformed or not inputs:
        told = describe_malformed(by_kind(malformed), table.unit) or "it has no rows"
        raise DataError(f"`{table.name}` has rows that cannot be answered: {told}", "take them out")
    return inputs
