"""Answers texts and files with a loaded adapter."""

from __future__ import annotations

import csv
import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from peftkit.adapters.loading import load
from peftkit.deploy.answering.inputs import given_inputs, read_inputs, read_table
from peftkit.errors import OutputError
from peftkit.tasks.answers import Answer
from peftkit.training.progress import Say, silent


def answer_texts(
    run: str,
    base: str,
    given: Mapping[str, Sequence[str]],
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
    say: Say = silent,
) -> tuple[list[dict[str, str]], Sequence[Answer]]:
    """The values of each input by the task's names, and the adapter's answer to it.

    Args:
        given: name of an option in the task's `input_options` -> its values, one for each input.
        settings: values of fields that adapter_config.json lacks.
        say: called with progress messages if answering takes long.
    """
    adapter = load(run, base, trust_remote_code, settings)
    inputs = given_inputs(given, adapter.recipe.task)
    asked = [{"text": one} if isinstance(one, str) else one for one in inputs]
    return asked, adapter.predict(inputs, say)


def answer_file(
    run: str,
    base: str,
    file: Path,
    out: Path,
    encoding: str = "",
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
    say: Say = silent,
) -> int:
    """Writes a file's rows as CSV, with their answers in added columns.

    The columns are named `predicted` and `probability`; `score`, and `rank` in a group; or `reply`,
    as the task needs. If the file has a column of this name, `predicted_` precedes the added one's.

    Args:
        encoding: encoding of the file; empty if unknown.
        say: called with notes on the file, and with progress messages if answering takes long.

    Returns:
        The number of answered rows.

    Raises:
        DataError: the file lacks a column or has rows that cannot be read.
        OutputError: `out` exists or cannot be written.
    """
    adapter = load(run, base, trust_remote_code, settings)
    task = adapter.recipe.task
    table = task.adapt_inputs(read_table(file, task.source, encoding))
    for note in table.notes:
        say(note)
    inputs = read_inputs(table, task)
    answers = [answer.cells() for answer in adapter.predict(inputs, say)]
    try:
        with out.open("x", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow((*table.columns, *_added_names(answers[0], table.columns)))
            for (_, values), answer in zip(table.rows, answers, strict=True):
                row = [_cell(values.get(column, "")) for column in table.columns]
                writer.writerow((*row, *answer.values()))
    except FileExistsError:
        raise OutputError(f"`{out}` exists already, and nothing is overwritten") from None
    except OSError as error:
        raise OutputError(f"cannot write `{out}`: {error.strerror}") from error
    return len(answers)


def _added_names(names: Iterable[str], taken: Collection[str]) -> list[str]:
    """Returns the names of the added columns; none of them is the name of a column of the file."""
    longest = len(taken) + 1
    names_of = ([f"{'predicted_' * n}{name}" for n in range(longest)] for name in names)
    return [next(name for name in choice if name not in taken) for choice in names_of]


def _cell(value: Any) -> Any:
    """A value for a CSV cell; lists and objects become JSON text."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
