"""CSV, TSV and their kin: rows of fields, with an account of every line of the file.

    lines = header + blank lines + rows + lines that continue a quoted field of a row

A quote may begin a field that goes on over several lines, or be a stray one, which would swallow
all lines up to the next. A row whose quotes do not work out is taken apart: its first line is
malformed, and each line after it is read by itself. A file whose quotes are plain text is read so.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peftkit.data.rows import Malformed, Table
from peftkit.data.text_files import encoding_hint, is_clean
from peftkit.errors import DataError, quoted

SEPARATORS = (",", ";", "\t", "|")
MAX_FIELD = 2**31 - 1
READ_AGAIN = 20
"""How many times the lines of a file may be read again because quotes do not work out."""
MANY_LINES = 10
"""A record of so many lines, nearly all of them rows by themselves, has swallowed them: texts
rarely have a row's number of separators in each line."""
LINES_TO_TELL = 100
"""Of the file's first lines, to find out what separates its fields."""


@dataclass(frozen=True)
class _Record:
    """What one pass has read at some lines."""

    first: int
    """Index of its first line."""
    end: int
    """Index after its last line."""
    fields: tuple[str, ...] | None
    """None where the quotes do not work out."""
    kind: str = ""
    """What is malformed in it; empty if nothing is."""


@dataclass
class _Reading:
    """All records of a file under one understanding of its quotes."""

    records: list[_Record] = field(default_factory=list)

    def malformed(self) -> list[_Record]:
        return [record for record in self.records if record.kind]

    def strays(self) -> list[_Record]:
        return [record for record in self.records if record.kind == STRAY]


STRAY = "stray quote"
ESCAPED = "a quote after a backslash, where CSV has two quotes"
SPACED = re.compile(r'\s+"[^"]*"')
"""A field in quotes with a space before it, which the csv module reads as text."""


def read_delimited(path: Path, text: str, encoding: str, separator: str = "") -> Table:
    """The table of a file with a header and a row on each line.

    Args:
        encoding: of the file, for messages.
        separator: between fields; empty to find out: what the file's ending says, unless another
            one of `SEPARATORS` fits better.

    Raises:
        DataError: the header cannot be read.
    """
    lines = list(io.StringIO(text, newline=""))
    start, told = _excel_line(lines)
    blank = 0
    while start + blank < len(lines) and not lines[start + blank].strip():
        blank += 1
    usual = "\t" if path.suffix.lower() == ".tsv" else ","
    limit = csv.field_size_limit(MAX_FIELD)  # a process-wide setting, so it is put back
    try:
        used = separator or told or _separator(lines[start + blank :], usual)
        reading, literal = _best_reading(lines, start + blank, used)
    finally:
        csv.field_size_limit(limit)
    if not reading.records:
        return Table(str(path), (), (), unit="line")
    columns = _header(path, reading.records[0], used, separator, encoding)
    notes = []
    if used != usual and not separator:
        notes.append(f"`{path.name}` is read with {_named(used)} between fields")
    if literal is not None:
        notes.append(
            f"quotes in `{path.name}` are read as text: the one in line {literal} encloses nothing"
        )
    return _table(path, lines, columns, reading.records[1:], encoding, tuple(notes))


def _table(
    path: Path,
    lines: Sequence[str],
    columns: tuple[str, ...],
    records: Sequence[_Record],
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
            escaped = record.kind == STRAY and _is_escaped(lines[record.first])
            malformed.append(Malformed(number, ESCAPED if escaped else record.kind))
        elif not all(map(is_clean, record.fields)):
            malformed.append(Malformed(number, f"not {encoding.upper()}"))
        else:
            rows.append((number, dict(zip(columns, record.fields, strict=True))))
    if spaced := sum(any(SPACED.fullmatch(text) for text in row.values()) for _, row in rows):
        notes += (
            f"in {spaced:,} rows of `{path.name}` a space stands before the quotes around a field, "
            "so that the quotes are read as text",
        )
    return Table(
        str(path), columns, tuple(rows), tuple(malformed), "line",
        notes=notes, num_lines=len(lines), continued=tuple(continued),
    )  # fmt: skip


def _is_escaped(line: str) -> bool:
    """Whether quotes in a line stand after backslashes."""
    return '\\"' in line


def _best_reading(lines: Sequence[str], start: int, separator: str) -> tuple[_Reading, int | None]:
    """The records, the header first; and where quotes are plain text, the line that shows it."""
    reading = _read_quoted(lines, start, separator, frozenset())
    if torn := _swallowed(lines, reading, separator):
        reading = _read_quoted(lines, start, separator, torn)
    strays = reading.strays()
    escaped = sum(_is_escaped(lines[record.first]) for record in strays)
    if not strays or reading.records[0].kind or 2 * escaped > len(strays):
        return reading, None
    literal = _read_literal(lines, start, separator)
    fewer = len(literal.malformed()) < len(reading.malformed())
    if fewer and not _quotes_enclose(reading, lines, separator):
        return literal, strays[0].first + 1
    return reading, None


def _read_quoted(
    lines: Sequence[str], start: int, separator: str, torn: Collection[int]
) -> _Reading:
    """Records whose fields may be enclosed in quotes.

    Args:
        torn: indices of first lines whose records are taken apart whatever they look like.
    """
    found = _Reading()
    width = again = 0
    at, suspect = start, start  # lines before `suspect` were part of a record taken apart
    while at < len(lines):
        most = len(lines) if again <= READ_AGAIN * len(lines) else 1
        for record in _csv_records(lines, at, separator, most):
            at = record.end
            if record.fields is not None and _is_blank(record.fields):
                continue
            several = record.end - record.first > 1
            begun = record.first < suspect and not several  # its other end may be a line above
            odd = begun and lines[record.first].count('"') % 2 == 1
            wrong = record.fields is None or (bool(width) and len(record.fields) != width)
            if odd or record.fields is None or (several and (wrong or record.first in torn)):
                found.records.append(_Record(record.first, record.first + 1, None, STRAY))
                suspect, at = max(suspect, record.end), record.first + 1
                again += record.end - record.first
                break
            width = width or len(record.fields)
            found.records.append(_judged(record, width))
    return found


def _csv_records(lines: Sequence[str], first: int, separator: str, most: int) -> Iterator[_Record]:
    """Records as the csv module reads them, strictly.

    Args:
        first: index of the first line to read.
        most: how many lines are read.
    """
    rest = (lines[index] for index in range(first, min(len(lines), first + most)))
    reader = csv.reader(rest, delimiter=separator, strict=True)
    while True:
        begin = first + reader.line_num
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield _Record(begin, first + reader.line_num, None)
        else:
            yield _Record(begin, first + reader.line_num, tuple(fields))


def _is_blank(fields: Sequence[str]) -> bool:
    return len(fields) < 2 and not "".join(fields).strip()


def _read_literal(lines: Sequence[str], start: int, separator: str) -> _Reading:
    """A record on each line, quotes as they are."""
    found = _Reading()
    width = 0
    for index in range(start, len(lines)):
        fields = tuple(lines[index].rstrip("\r\n").split(separator))
        if not _is_blank(fields):
            width = width or len(fields)
            found.records.append(_judged(_Record(index, index + 1, fields), width))
    return found


def _judged(record: _Record, width: int) -> _Record:
    """The record with what is malformed in it, if its number of fields is."""
    count = len(record.fields or ())
    kind = "" if count == width else "too few fields" if count < width else "too many fields"
    return _Record(record.first, record.end, record.fields, kind)


def _swallowed(lines: Sequence[str], reading: _Reading, separator: str) -> frozenset[int]:
    """First lines of the records that join lines which are rows by themselves: nearly each has the
    right number of fields, and, as commas stand in texts too, one that other rows have, such as a
    label, or they are many.
    """
    rows = [r for r in reading.records[1:] if not r.kind and r.fields]
    several = [record for record in rows if record.end - record.first > 1]
    if not several or len(reading.records[0].fields or ()) < 2:
        return frozenset()
    width = len(reading.records[0].fields or ())
    tabs = separator == "\t"  # which a text does not have, unless tables are what it holds
    least = 1.0 if not tabs else 0.5 if len(several) > 1 else 0.0
    common: list[Counter[str]] = [Counter() for _ in range(width)]
    for record in rows:
        if record.end - record.first == 1:
            for counter, value in zip(common, record.fields or (), strict=True):
                counter[value.strip()] += 1
    found = set()
    for record in several:
        parts = [line.rstrip("\r\n").split(separator) for line in lines[record.first : record.end]]
        whole = [fields for fields in parts if len(fields) == width]
        ends = len(parts[0]) == len(parts[-1]) == width  # a text of several lines has more there
        if not ends or len(whole) < 0.9 * len(parts):
            continue
        own = [Counter(value.strip() for value in column) for column in zip(*whole, strict=True)]
        known = sum(_known(fields, common) or _known(fields, own) for fields in whole)
        if len(parts) >= MANY_LINES or known >= least * len(whole):
            found.add(record.first)
    return frozenset(found)


def _known(fields: Sequence[str], common: Sequence[Counter[str]]) -> bool:
    """Whether one of the fields has a value without quotes that at least two rows have."""
    return any(
        value.strip() and '"' not in value and counter[value.strip()] > 1
        for value, counter in zip(fields, common, strict=True)
    )


def _quotes_enclose(reading: _Reading, lines: Sequence[str], separator: str) -> bool:
    """Whether quotes around fields are the file's way to write them: they enclose what must be
    enclosed, or the header, or more fields than there are stray ones.
    """
    around = 0
    for record in reading.records:
        whole = "".join(lines[record.first : record.end]).rstrip("\r\n")
        if record.kind == STRAY or '"' not in whole:
            continue
        if record.end - record.first > 1 or record is reading.records[0]:
            return True
        enclosed = re.findall(rf'(?:^|{re.escape(separator)})"((?:[^"]|"")*)"', whole)
        if any(separator in value or '""' in value for value in enclosed):
            return True
        around += len(enclosed)
    return around > len(reading.strays())


def _excel_line(lines: Sequence[str]) -> tuple[int, str]:
    """Lines to pass over, and the separator, where the first line is Excel's `sep=;`."""
    first = lines[0].strip("\r\n") if lines else ""
    found = re.fullmatch(r'"?sep=([^"\w ])"?', first, re.IGNORECASE)
    return (1, found[1]) if found else (0, "")


def _separator(lines: Sequence[str], usual: str) -> str:
    """What separates the fields: the usual one, unless it leaves the header whole, or another one
    gives more lines as many fields as the header has.
    """

    def fits(separator: str) -> float:
        reading = _read_quoted(lines[:LINES_TO_TELL], 0, separator, frozenset())
        header = reading.records[0].fields if reading.records else None
        if not header or len(header) < 2:
            return 0.0
        return 1 - len(reading.malformed()) / len(reading.records)

    order = (usual, *(one for one in SEPARATORS if one != usual))
    return max(order, key=lambda separator: (round(fits(separator), 2), separator == usual))


def _header(
    path: Path, record: _Record, separator: str, given: str, encoding: str
) -> tuple[str, ...]:
    if record.fields is None:
        raise DataError(f"`{path}`: the header cannot be read: {record.kind}")
    columns = tuple(name.strip() for name in record.fields)
    if not all(map(is_clean, columns)):
        raise DataError(
            f"`{path}`: the header cannot be read: not {encoding.upper()}", encoding_hint(path)
        )
    if given and len(columns) == 1:
        others = [one for one in SEPARATORS if one in columns[0]]
        if others:
            raise DataError(
                f"`{path}`: {_named(separator)}, which `separator` asks for, is not in the header "
                f"`{columns[0]}`",
                f"give `--task.data.separator '{others[0]}'`, or leave it out",
            )
    if (unnamed := columns.count("")) > 1:  # one is the index that pandas writes
        raise DataError(
            f"`{path}`: {unnamed} of the header's {len(columns)} columns have no name",
            f"name them, or take out what separates fields ({_named(separator)}) at the end of "
            "the lines",
        )
    if repeated := {name for name in columns if columns.count(name) > 1}:
        raise DataError(f"`{path}`: the header names {quoted(sorted(repeated))} more than once")
    return columns


def _named(separator: str) -> str:
    """How a message calls a separator."""
    return "tabs" if separator == "\t" else f"`{separator}`"
