"""Reads rows of a text and the text to write for it, with one or several references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from peftkit.data.rows import Row, Table, is_empty, is_missing
from peftkit.tasks.reading.text_keys import text_key

TRANSLATION = "translation"
"""The column of Hub data sets with an object of languages and texts."""


def read_pair(values: Mapping[str, object], text: str, target: str) -> dict[str, object] | str:
    """Returns `text` and `targets`, or says what is malformed.

    Args:
        text, target: names of the two columns. The target may be a list of references, of which
            the first one is learned.
    """
    read, written = values.get(text), values.get(target)
    if wrong := wrong_text(read, text):
        return wrong
    references = written if isinstance(written, list | tuple) else [written]
    if not references:
        return f"{target} is an empty list"
    for reference in references:
        if wrong := wrong_text(reference, target):
            return wrong
    return {"text": str(read).strip(), "targets": tuple(str(one).strip() for one in references)}


def read_texts(values: Mapping[str, object], columns: Mapping[str, str]) -> dict[str, object] | str:
    """Returns the texts of some columns by their names, or says what is malformed.

    Args:
        columns: name of each text -> its column.
    """
    for column in columns.values():
        if wrong := wrong_text(values.get(column), column):
            return wrong
    return {name: str(values[column]).strip() for name, column in columns.items()}


def wrong_text(value: Any, column: str) -> str:
    """Says why a value is not a text; empty if it is one."""
    if is_missing(value) or (isinstance(value, str) and is_empty(value)):
        return f"empty {column}"
    return "" if isinstance(value, str) else f"{column} is {type(value).__name__}, not text"


def with_language_columns(table: Table, columns: Sequence[str]) -> Table:
    """Returns a table in which each language of the column `translation` has a column of its own,
    if a wanted column is missing.
    """
    if TRANSLATION not in table.columns or set(columns) <= {*table.columns}:
        return table
    rows, languages = [], dict[str, None]()
    for number, values in table.rows:
        nested = values.get(TRANSLATION)
        texts = nested if isinstance(nested, Mapping) else {}
        languages.update(dict.fromkeys(map(str, texts)))
        rest = {name: value for name, value in values.items() if name != TRANSLATION}
        rows.append((number, {**rest, **texts}))
    kept = [name for name in table.columns if name != TRANSLATION]
    return replace(table, columns=(*kept, *languages), rows=tuple(rows))


def pair_key(row: Row) -> str:
    """A key that is equal for rows with the same text and the same references."""
    return "\x1f".join(map(text_key, (row.values["text"], *row.values["targets"])))
