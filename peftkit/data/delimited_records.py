"""Reads the records of a delimited file, with quotes around fields or with quotes as plain text.

A quote may begin a field that continues over several lines. A stray quote would swallow all lines
up to the next quote, so a record with unmatched quotes is split up: its first line is malformed,
and each line after it is read by itself.
"""

from __future__ import annotations

import csv
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

STRAY = "stray quote"
READ_AGAIN = 20
"""Maximum number of lines to reread after unmatched quotes, divided by the file's number of
lines."""


@dataclass(frozen=True)
class DelimitedRecord:
    """A record, read from one or more lines."""

    first: int
    """Index of the record's first line."""
    end: int
    """Index of the record's last line, plus 1."""
    fields: tuple[str, ...] | None
    """The record's fields; None if its quotes do not match."""
    kind: str = ""
    """What is malformed in the record; empty if nothing is."""


@dataclass
class Reading:
    """All records of a file, read with quotes around fields or with quotes as plain text."""

    records: list[DelimitedRecord] = field(default_factory=list)

    def malformed(self) -> list[DelimitedRecord]:
        """Returns the malformed records, which become no rows."""
        return [record for record in self.records if record.kind]

    def strays(self) -> list[DelimitedRecord]:
        """Returns the records with a quote that encloses no field."""
        return [record for record in self.records if record.kind == STRAY]


def read_quoted(lines: Sequence[str], start: int, separator: str, torn: Collection[int]) -> Reading:
    """Reads records that may have quotes around their fields.

    Args:
        torn: indices of lines. A record of several lines that begins at one of these lines is split
            up into its lines, even if its quotes match.
    """
    reading = Reading()
    width = again = 0
    at, suspect = start, start  # lines before `suspect` are from a record that was split
    while at < len(lines):
        most = len(lines) if again <= READ_AGAIN * len(lines) else 1
        for record in _csv_records(lines, at, separator, most):
            at = record.end
            if record.fields is not None and _is_blank(record.fields):
                continue
            several = record.end - record.first > 1
            begun = (
                record.first < suspect and not several
            )  # its quote may have begun in a line above
            odd = begun and lines[record.first].count('"') % 2 == 1
            wrong = record.fields is None or (bool(width) and len(record.fields) != width)
            if odd or record.fields is None or (several and (wrong or record.first in torn)):
                reading.records.append(DelimitedRecord(record.first, record.first + 1, None, STRAY))
                suspect, at = max(suspect, record.end), record.first + 1
                again += record.end - record.first
                break
            width = width or len(record.fields)
            reading.records.append(_with_kind(record, width))
    return reading


def _csv_records(
    lines: Sequence[str], first: int, separator: str, most: int
) -> Iterator[DelimitedRecord]:
    """Yields records as the csv module reads them in strict mode.

    Args:
        first: index of the first line to read.
        most: maximum number of lines to read.
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
            yield DelimitedRecord(begin, first + reader.line_num, None)
        else:
            yield DelimitedRecord(begin, first + reader.line_num, tuple(fields))


def _is_blank(fields: Sequence[str]) -> bool:
    return len(fields) < 2 and not "".join(fields).strip()


def read_literal(lines: Sequence[str], start: int, separator: str) -> Reading:
    """Reads one record from each line, with quotes as plain text."""
    reading = Reading()
    width = 0
    for index in range(start, len(lines)):
        fields = tuple(lines[index].rstrip("\r\n").split(separator))
        if not _is_blank(fields):
            width = width or len(fields)
            reading.records.append(_with_kind(DelimitedRecord(index, index + 1, fields), width))
    return reading


def _with_kind(record: DelimitedRecord, width: int) -> DelimitedRecord:
    """Returns a copy of a record; its `kind` says if it has fewer or more than `width` fields."""
    count = len(record.fields or ())
    kind = "" if count == width else "too few fields" if count < width else "too many fields"
    return DelimitedRecord(record.first, record.end, record.fields, kind)
