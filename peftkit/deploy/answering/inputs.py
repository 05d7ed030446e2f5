"""Reads the rows that `peftkit predict` answers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.data.ledger import by_kind, describe_malformed
from peftkit.data.reading import read_file
from peftkit.data.rows import Malformed, Table
from peftkit.data.source import Source
from peftkit.data.text_files import encoding_hint
from peftkit.errors import DataError, RecipeError, not_found, quoted
from peftkit.tasks.input_options import flag
from peftkit.tasks.task import Task


def read_table(file: Path, source: Source, encoding: str = "") -> Table:
    """Reads a table; without `encoding`, tries UTF-8 first, then the training file's encoding.

    Args:
        encoding: the table's encoding; empty if the user gave none.

    Raises:
        DataError: the file does not exist or cannot be read.
    """
    if not file.is_file():
        raise DataError(f"no file `{file}`", not_found(file))
    if not encoding:
        try:
            file.read_bytes().decode()
        except UnicodeDecodeError:
            encoding = source.encoding
    try:
        return read_file(file, Source(path=str(file), encoding=encoding))
    except DataError as error:
        raise DataError(error.message, _as_option(error.hint)) from error


def given_inputs(
    given: Mapping[str, Sequence[str]], task: Task
) -> list[str] | list[dict[str, str]]:
    """The task's inputs from values of options: texts if only `--text` is given, else mappings.

    Args:
        given: name of an option in the task's `input_options` -> its values, one for each input.

    Raises:
        RecipeError: the task does not read an option.
    """
    known = task.input_options
    if other := [name for name in given if name not in known]:
        raise RecipeError(
            f"{task.kind()} reads no `{flag(other[0])}`",
            f"leave it out; it reads {quoted(map(flag, known))}",
        )
    if list(given) == ["text"]:
        return list(given["text"])
    roles = [known[name].role for name in given]
    return [dict(zip(roles, values, strict=True)) for values in zip(*given.values(), strict=True)]


def read_inputs(table: Table, task: Task) -> list[Any]:
    """The task's inputs, one per row of a table.

    Raises:
        DataError: a column is missing, or rows cannot be read.
    """
    malformed = list(table.malformed)
    inputs = []
    for number, values in table.rows:
        try:
            row = task.read_input(values, table)
        except DataError as error:
            raise DataError(
                error.message, "name the columns of the file as in the training file"
            ) from error
        if isinstance(row, str):
            malformed.append(Malformed(number, row))
        else:
            inputs.append(row)
    if malformed or not inputs:
        kinds = by_kind(malformed)
        problems = describe_malformed(kinds, table.unit) or "it has no rows"
        hint = _as_option(encoding_hint(Path(table.name))) if "not UTF-8" in kinds else ""
        raise DataError(
            f"`{table.name}` has rows that cannot be answered: {problems}", hint or "remove them"
        )
    return inputs


def _as_option(hint: str) -> str:
    """Replaces `--task.data.encoding` in a hint by `predict`'s option `--encoding`."""
    return hint.replace("--task.data.encoding", "--encoding")
