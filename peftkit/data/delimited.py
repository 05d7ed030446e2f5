"""Reads CSV, TSV and similar files, and accounts for every line.

lines = header + blank lines + rows + lines that continue a quoted field of a row
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from pathlib import Path

from peftkit.data.delimited_quotes import best_reading, has_escaped_quotes
from peftkit.data.delimited_records import STRAY, DelimitedRecord, read_quoted
from peftkit.data.rows import Malformed, Table
from peftkit.data.text_files import encoding_hint, is_decoded
from peftkit.errors import DataError, quoted

SEPARATORS = (",", ";", "\t", "|")
MAX_FIELD = 2**31 - 1
SAMPLED_LINES = 100
"""Number of lines, from the header on, that are read to detect the separator."""
ESCAPED = "a quote after a backslash, where CSV has two quotes"
SPACED = re.compile(r'\s+"[^"]*"')
"""Pattern of a quoted field after a space; the csv module reads its quotes as text."""


def read_delimited(path: Path, text: str, encoding: str, separator: str = "") -> Table:
    """Returns the table of a delimited file, whose first record is the header.

    Args:
        encoding: encoding of the file, for messages.
        separator: character between fields; detected if empty. If several characters fit equally
            well, the usual one for the file's ending is taken.

    Raises:
        DataError: the header cannot be read.
    """
    lines = list(io.StringIO(text, newline=""))
    start, declared = _excel_line(lines)
    blank = 0
    while start + blank < len(lines) and not lines[start + blank].strip():
        blank += 1
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    limit = csv.field_size_limit(MAX_FIELD)  # a process-wide setting, restored below
    try:
        used = separator or declared or _separator(lines[start + blank :], usual)
        reading, literal = best_reading(lines, start + blank, used)
    finally:
        csv.field_size_limit(limit)
    if not reading.records:
        return Table(str(path), (), (), unit="line")
    columns = _header(path, reading.records[0], used, separator, encoding)
    notes = []
    if used != usual and not separator:
        notes.append(f"`{path.name}` is read with {_shown_separator(used)} between fields")
    if literal is not None:
        notes.append(
            f"quotes in `{path.name}` are read as text: the one in line {literal} encloses nothing"
        )
    return _table(path, lines, columns, reading.records[1:], encoding, tuple(notes))


def _table(
    path: Path,
    lines: Sequence[str],
    columns: tuple[str, ...],
    records: Sequence[DelimitedRecord],
    encoding: str,
    notes: tuple[str, ...],
) -> Table:
    rows: list[tuple[int, dict[str, str]]] = []
    malformed: list[Malformed] = []
    continued: list[int] = []
    for record in records:
        number = record.first + 1
        continued += range(number + 1, record.end + 1)
        if record.kind or record.fields is None:
            escaped = record.kind == STRAY and has_escaped_quotes(lines[record.first])
            malformed.append(Malformed(number, ESCAPED if escaped else record.kind))
        elif not all(map(is_decoded, record.fields)):
            malformed.append(Malformed(number, f"not {encoding.upper()}"))
        else:
            rows.append((number, dict(zip(columns, record.fields, strict=True))))
    if spaced := sum(any(SPACED.fullmatch(text) for text in row.values()) for _, row in rows):
        notes += (
            f"in {spaced:,} rows of `{path.name}` a space precedes the quotes around a field, so "
            "the quotes are read as text",
        )
    return Table(
        str(path), columns, tuple(rows), tuple(malformed), "line",
        notes=notes, num_lines=len(lines), continued=tuple(continued),
    )  # fmt: skip


def _excel_line(lines: Sequence[str]) -> tuple[int, str]:
    """Returns (number of lines to skip, separator): (1, `;`) if the first line is Excel's `sep=;`,
    (0, empty) for any other line.
    """
    first = lines[0].strip("\r\n") if lines else ""
    declaration = re.fullmatch(r'"?sep=([^"\w ])"?', first, re.IGNORECASE)
    return (1, declaration[1]) if declaration else (0, "")


def _separator(lines: Sequence[str], usual: str) -> str:
    """Returns the separator for which most lines have the header's number of fields. On a tie,
    `usual` is preferred.
    """

    def fits(separator: str) -> float:
        reading = read_quoted(lines[:SAMPLED_LINES], 0, separator, frozenset())
        header = reading.records[0].fields if reading.records else None
        if not header or len(header) < 2:
            return 0.0
        return 1 - len(reading.malformed()) / len(reading.records)

    order = (usual, *(one for one in SEPARATORS if one != usual))
    return max(order, key=lambda separator: (round(fits(separator), 2), separator == usual))


def _header(
    path: Path, record: DelimitedRecord, separator: str, requested: str, encoding: str
) -> tuple[str, ...]:
    if record.fields is None:
        raise DataError(f"`{path}`: the header cannot be read: {record.kind}")
    columns = tuple(name.strip() for name in record.fields)
    if not all(map(is_decoded, columns)):
        raise DataError(
            f"`{path}`: the header cannot be read: not {encoding.upper()}", encoding_hint(path)
        )
    if requested and len(columns) == 1:
        others = [one for one in SEPARATORS if one in columns[0]]
        if others:
            raise DataError(
                f"`{path}`: `separator` is {_shown_separator(separator)}, which is not in "
                f"the header `{columns[0]}`",
                f"give `--task.data.separator '{others[0]}'`, or leave it out",
            )
    if (unnamed := columns.count("")) > 1:  # one is the index that pandas writes
        raise DataError(
            f"`{path}`: {unnamed} of the header's {len(columns)} columns have no name",
            f"name them, or remove the separator ({_shown_separator(separator)}) at the end of the "
            "lines",
        )
    if repeated := {name for name in columns if columns.count(name) > 1}:
        raise DataError(f"`{path}`: the header names {quoted(sorted(repeated))} more than once")
    return columns


def _shown_separator(separator: str) -> str:
    """Returns a separator in the form for messages: `tabs`, or the quoted character."""
    return "tabs" if separator == "\t" else f"`{separator}`"
