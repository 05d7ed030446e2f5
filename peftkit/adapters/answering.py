"""Answers for texts and files, through a loaded adapter."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.adapters.loading import load
from peftkit.data.ledger import by_kind, describe_malformed
from peftkit.data.reading import read_file
from peftkit.data.rows import Malformed
from peftkit.errors import DataError, OutputError, RecipeError
from peftkit.training.progress import Say, silent


def answer_texts(
    run: str,
    base: str,
    texts: Sequence[str],
    pairs: Sequence[str],
    trust_remote_code: bool = False,
    say: Say = silent,
) -> list[dict[str, Any]]:
    """`text`, and `label` and `probability`, or `reply`, for each text.

    Args:
        pairs: second texts, one for each, or none.
        say: called with how far it is, where that takes long.
    """
    for option, given in (("--text", texts), ("--text-pair", pairs)):
        if empty := [number for number, text in enumerate(given, start=1) if not text.strip()]:
            raise RecipeError(f"`{option}` number {empty[0]} is empty", "give it some text")
    adapter = load(run, base, trust_remote_code)
    inputs: list[Any] = list(texts)
    if pairs:
        inputs = [{"text": t, "text_pair": p} for t, p in zip(texts, pairs, strict=True)]
    answers = adapter.predict(inputs, say)
    return [{"text": t, **asdict(a)} for t, a in zip(texts, answers, strict=True)]


def answer_file(
    run: str,
    base: str,
    file: Path,
    out: Path,
    trust_remote_code: bool = False,
    say: Say = silent,
) -> int:
    """Writes the rows of a file with further columns: `predicted` and `probability`, or `reply`.

    Args:
        say: called with how far it is, where that takes long.

    Returns:
        The number of rows.

    Raises:
        DataError: the file lacks a column, or has rows that cannot be read.
        OutputError: `out` exists, or cannot be written.
    """
    if not file.is_file():
        raise DataError(f"no file `{file}`")
    table = read_file(file)
    adapter = load(run, base, trust_remote_code)
    malformed = list(table.malformed)
    inputs = []
    for number, values in table.rows:
        read = adapter.recipe.task.read_input(values, table)
        if isinstance(read, str):
            malformed.append(Malformed(number, read))
        else:
            inputs.append(read)
    if malformed or not inputs:
        told = describe_malformed(by_kind(malformed), table.unit) or "it has no rows"
        raise DataError(f"`{file}` has rows that cannot be answered: {told}", "take them out")
    answers = [answer.cells() for answer in adapter.predict(inputs, say)]
    try:
        with out.open("x", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow((*table.columns, *answers[0]))
            for (_, values), answer in zip(table.rows, answers, strict=True):
                row = [_cell(values.get(column, "")) for column in table.columns]
                writer.writerow((*row, *answer.values()))
    except FileExistsError:
        raise OutputError(f"`{out}` exists already, and nothing is overwritten") from None
    except OSError as error:
        raise OutputError(f"cannot write `{out}`: {error.strerror}") from error
    return len(answers)


def _cell(value: Any) -> Any:
    """Lists and objects as JSON, so that they can be read again."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, list | dict) else value
