"""Reads questions, perhaps with a text that they are about, and the answers to write."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peftkit.data.rows import Row, is_empty, is_missing
from peftkit.tasks.reading.entity_places import parsed
from peftkit.tasks.reading.written_pairs import read_texts, wrong_text


def read_written_answer(
    values: Mapping[str, object], columns: Mapping[str, str], no_answer: str
) -> dict[str, object] | str:
    """Returns the texts and `targets`, the right answers; or says what is malformed.

    Args:
        columns: name of each text, and `answers` -> the column.
        no_answer: the answer where the row has none; empty if such rows are malformed.
    """
    read = read_texts(values, {role: c for role, c in columns.items() if role != "answers"})
    if isinstance(read, str):
        return read
    answers = _answers(values.get(columns["answers"]), columns["answers"])
    if isinstance(answers, str):
        return answers
    if not answers and not no_answer:
        return f"empty {columns['answers']}"
    return {**read, "targets": tuple(answers) or (no_answer,)}


def merged_answers(rows: Sequence[Row]) -> Row:
    """Returns the first of some rows with the same question, with the right answers of all."""
    targets = dict.fromkeys(target for row in rows for target in row.values["targets"])
    return replace(rows[0], values={**rows[0].values, "targets": tuple(targets)})


def _answers(value: Any, column: str) -> list[str] | str:
    """Returns the texts of the answers, each once, or says what is malformed."""
    nested = parsed(value) if isinstance(value, str) and value.strip()[:1] in ("{", "[") else value
    if isinstance(nested, Mapping):
        if "text" not in nested:
            return f"{column} is an object without `text`"
        nested = nested["text"]
    if is_missing(nested) or is_empty(nested):
        return []
    listed = nested if isinstance(nested, list | tuple) else [nested]
    texts = [one.get("text") if isinstance(one, Mapping) else one for one in listed]
    for text in texts:
        if isinstance(text, int | float) and not isinstance(text, bool):
            continue
        if wrong := wrong_text(text, f"an answer in {column}"):
            return wrong
    return list(dict.fromkeys(str(text).strip() for text in texts))
