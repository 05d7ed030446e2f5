"""Answers for texts and files, through a loaded adapter."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.adapters.loading import load
from peftkit.data.ledger import by_kind, describe_malformed
from peftkit.data.reading import read_file
from peftkit.data.rows import Malformed
from peftkit.errors import DataError, OutputError, RecipeError, did_you_mean, quoted


def answer_texts(
    run: str, base: str, texts: Sequence[str], pairs: Sequence[str]
) -> list[dict[str, Any]]:
    """`text`, `label` and `probability` for each text.

    Args:
        pairs: second texts, one for each, or none.
    """
    if empty := [number for number, text in enumerate(texts, start=1) if not text.strip()]:
        raise RecipeError(f"--text number {empty[0]} is empty")
    adapter = load(run, base)
    wants_pair = "text_pair" in adapter.recipe.task.columns
    if wants_pair != bool(pairs):
        raise RecipeError(
            "the adapter was trained on pairs of texts; give `--text-pair` too"
            if wants_pair
            else "the adapter was trained on single texts; leave `--text-pair` out"
        )
    inputs = [
        {"text": text, "text_pair": pair}
        for text, pair in zip(texts, pairs or [""] * len(texts), strict=True)
    ]
    return [
        {"text": text, "label": answer.label, "probability": answer.probability}
        for text, answer in zip(texts, adapter.predict(inputs), strict=True)
    ]


def answer_file(run: str, base: str, file: Path, out: Path) -> int:
    """Writes the rows of a file with two more columns, `predicted` and `probability`.

    Returns:
        The number of rows.

    Raises:
        DataError: the file lacks a column, or has rows that cannot be read.
        OutputError: `out` exists, or cannot be written.
    """
    if not file.is_file():
        raise DataError(f"no file `{file}`")
    table = read_file(file)
    adapter = load(run, base)
    columns = {k: v for k, v in adapter.recipe.task.columns.items() if k.startswith("text")}
    if missing := [column for column in columns.values() if column not in table.columns]:
        raise DataError(
            f"`{file}` has no column {quoted(missing)}; it has {quoted(table.columns)}",
            did_you_mean(missing[0], table.columns),
        )
    malformed = list(table.malformed)
    inputs = []
    for number, values in table.rows:
        texts = {role: values.get(column) for role, column in columns.items()}
        if all(isinstance(text, str) and text.strip() for text in texts.values()):
            inputs.append({role: str(text) for role, text in texts.items()})
        else:
            malformed.append(Malformed(number, "empty text"))
    if malformed or not inputs:
        told = describe_malformed(by_kind(malformed), table.unit) or "it has no rows"
        raise DataError(f"`{file}` has rows that cannot be answered: {told}", "take them out")
    answers = adapter.predict(inputs)
    added = ("predicted", "probability")
    try:
        with out.open("x", encoding="utf-8", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow((*table.columns, *added))
            for (_, values), answer in zip(table.rows, answers, strict=True):
                row = [values.get(column, "") for column in table.columns]
                writer.writerow((*row, answer.label, f"{answer.probability:.6f}"))
    except FileExistsError:
        raise OutputError(f"`{out}` exists already, and nothing is overwritten") from None
    except OSError as error:
        raise OutputError(f"cannot write `{out}`: {error.strerror}") from error
    return len(answers)
