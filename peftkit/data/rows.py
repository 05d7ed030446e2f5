"""Defines rows and tables of the user's data, and checks of their values and columns."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import islice
from typing import Any

from peftkit.errors import DataError, did_you_mean, quoted


@dataclass(frozen=True, slots=True)
class Origin:
    """The file of a row, for messages."""

    file: str = ""
    """Name of the file or split; empty if it is unknown."""
    unit: str = "row"
    """What the row's number counts: `line` or `row`."""
    word_a_line: bool = False
    """Whether each word of a row has a line of its own, the first one that of the row's number."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the user's data, with the task's names for columns."""

    number: int
    """Line number in a text file, as editors show it; elsewhere the row number, from 1."""
    values: Mapping[str, Any]
    """The task's column (`text`, `label`, ...) -> value."""
    group: str = ""
    """Name of the row's group, whose rows stay in one split; empty if the row has no group."""
    origin: Origin = Origin()

    def place_of(self, word: int) -> str:
        """Returns where a word of the row stands: ``line 7 of `a.conll` ``, or
        ``line 7 of `a.jsonl`, word 3``.

        Args:
            word: its index in the row.
        """
        origin = self.origin
        of_file = f" of `{origin.file}`" * bool(origin.file)
        if origin.word_a_line:
            return f"{origin.unit} {self.number + word}{of_file}"
        return f"{origin.unit} {self.number}{of_file}, word {word + 1}"


@dataclass(frozen=True, slots=True)
class Malformed:
    """A row that cannot be used, and why."""

    number: int
    kind: str


@dataclass(frozen=True)
class Table:
    """The rows of a file or of one split, with malformed rows and notes."""

    name: str
    """Name in messages: the path, and the split if there are several."""
    columns: tuple[str, ...]
    rows: tuple[tuple[int, Mapping[str, Any]], ...]
    """(row number, values) of each row; the values are column -> value."""
    malformed: tuple[Malformed, ...] = ()
    unit: str = "row"
    """What the row numbers count: `line` or `row`."""
    word_a_line: bool = False
    """See `Origin.word_a_line`."""
    label_names: Mapping[str, Mapping[str, str]] | None = None
    """Column -> label -> name of the label; None if the source does not name its labels."""
    notes: tuple[str, ...] = ()
    """Notes for the user on how the file was read."""
    num_lines: int = 0
    """Number of lines in a delimited file; 0 for other sources."""
    continued: tuple[int, ...] = ()
    """Numbers of the lines that continue a quoted field of the row above."""
    other_tasks: tuple[str, ...] = ()
    """Columns of packaged data that only some tasks read; a task need not read them."""


SAMPLED = 300
"""Maximum number of values to inspect in a column."""
NOTHING = ("", "none", "nan", "null", "<na>")
"""Texts that other programs write for a missing value."""
WORD = re.compile(r"[^\W\d_]{2}")
NAME = re.compile(r"(?=\S*(?:\d|://))[!-~]+")
"""Pattern of an id or an address: ASCII without white space, with a digit or `://`."""
DATE = re.compile(
    r"\b(?:mon(?:day)?|tue(?:s(?:day)?)?|wed(?:nesday)?|thu(?:r(?:s(?:day)?)?)?|fri(?:day)?"
    r"|sat(?:urday)?|sun(?:day)?|jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?"
    r"|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?|nov(?:ember)?|dec(?:ember)?|[ap]m|utc|gmt|cest"
    r"|[ecmpw][sde]?t)\b|(?<=\d)(?:st|nd|rd|th|am|pm)\b",
    re.IGNORECASE,
)
"""Pattern of words and endings that occur in dates and times."""


def text_columns(table: Table) -> list[str]:
    """Returns the columns in which most values contain words, alone or inside lists or objects."""
    columns = []
    for column in table.columns:
        values = (value for _, row in table.rows if not _is_plain(value := row.get(column)))
        sample = list(islice(values, SAMPLED))
        if sum(map(_has_words, sample)) > len(sample) / 2:
            columns.append(column)
    return columns


def _is_plain(value: Any) -> bool:
    """Whether a value is missing, an empty list or object, or a text such as `nan`, `true`,
    `false`.
    """
    if isinstance(value, str):
        return value.strip()[:8].casefold() in (*NOTHING, "true", "false")
    return is_missing(value) or value in ([], {})


def _has_words(value: Any) -> bool:
    waiting = [value]  # values may be nested deeper than Python's recursion limit
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, str):
            dated = any(map(str.isdigit, inner))
            if not NAME.fullmatch(inner.strip()) and WORD.search(
                DATE.sub(" ", inner) if dated else inner
            ):
                return True
        elif isinstance(inner, Mapping):
            waiting.extend(inner.values())
        elif isinstance(inner, Sequence) and not isinstance(inner, bytes):
            waiting.extend(inner)
    return False


@lru_cache(maxsize=1024)
def folded_name(name: str) -> str:
    """Returns a column's name without case and separators: `systemPrompt` equals
    `system_prompt`.
    """
    return re.sub(r"[\W_]+", "", name).casefold()


def is_missing(value: Any) -> bool:
    """Whether a value is null or NaN; some tables hold NaN instead of null."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def is_empty(value: Any) -> bool:
    """Whether a value is missing, empty, or holds only empty values. A text is empty if it is
    blank, JSON of an empty value, or a word such as `nan`.
    """
    if value is None:
        return True
    if isinstance(value, str):
        text = value.strip()
        if text[:1] not in ("[", "{", '"'):
            return text[:8].casefold() in NOTHING
        try:
            value = json.loads(text)
        except (ValueError, RecursionError):
            return False
    waiting = [value]  # values may be nested deeper than Python's recursion limit
    while waiting:
        inner = waiting.pop()
        if isinstance(inner, Mapping):
            waiting.extend(inner.values())
        elif isinstance(inner, Sequence) and not isinstance(inner, str | bytes):
            waiting.extend(inner)
        elif not is_missing(inner) and (not isinstance(inner, str) or inner.strip()):
            return False
    return True


def group_name(value: Any) -> str:
    """Returns a value as the name of a group; empty if there is none.

    `7.0` is `7`: pandas writes whole numbers so if a cell of their column is empty.
    """
    if is_missing(value):
        return ""
    name = re.sub(r"^([-+]?\d+)\.0+$", r"\1", str(value).strip())
    return name if any(c.isprintable() and not c.isspace() for c in name) else ""


def is_empty_or_false(value: Any) -> bool:
    """Whether a value is empty, the truth value false, or the text `false`."""
    off = value.strip().casefold() == "false" if isinstance(value, str) else value is False
    return off or is_empty(value)


def check_columns(table: Table, columns: Mapping[str, str]) -> None:
    """Raises DataError if a table lacks a column that the task needs.

    Args:
        columns: the task's name of a column -> its name in the table.
    """
    missing = [column for column in columns.values() if column not in table.columns]
    if missing and (table.rows or not table.malformed):
        guess = did_you_mean(missing[0], table.columns)
        role = next(role for role, column in columns.items() if column == missing[0])
        if len(table.columns) == 1 and (other := _separator_in(table.columns[0], columns.values())):
            guess = f"give `--task.data.separator '{other}'`"
        raise DataError(
            f"`{table.name}` has no column {quoted(missing)}; it has {quoted(table.columns)}",
            guess or f"say which column it is, for example `--task.data.{role} NAME`",
        )


def _separator_in(header: str, columns: Collection[str]) -> str:
    """Returns a character that splits a header into names, among them all `columns`; empty if there
    is none.
    """
    others = {c for c in header if not c.isalnum() and c not in "_\"'"}
    return next((c for c in sorted(others) if {*columns} <= {*header.split(c)}), "")
