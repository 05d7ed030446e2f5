"""Decides whether the quotes of a delimited file enclose fields or are plain text."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence

from peftkit.data.delimited_records import STRAY, Reading, read_literal, read_quoted

MANY_LINES = 10
"""A quoted record of at least this many lines is taken for several rows joined by mistake if its
first, its last and nearly all other lines have as many fields as the header. In a text, lines
rarely do."""


def has_escaped_quotes(line: str) -> bool:
    """Whether a line has a quote after a backslash."""
    return '\\"' in line


def best_reading(lines: Sequence[str], start: int, separator: str) -> tuple[Reading, int | None]:
    """Returns (records, line): the records with the header first, and the number of the line that
    shows that quotes are plain text. `line` is None if quotes enclose fields.
    """
    reading = read_quoted(lines, start, separator, frozenset())
    if torn := _swallowed(lines, reading, separator):
        reading = read_quoted(lines, start, separator, torn)
    strays = reading.strays()
    escaped = sum(has_escaped_quotes(lines[record.first]) for record in strays)
    if not strays or reading.records[0].kind or 2 * escaped > len(strays):
        return reading, None
    literal = read_literal(lines, start, separator)
    fewer = len(literal.malformed()) < len(reading.malformed())
    if fewer and not _quotes_enclose(reading, lines, separator):
        return literal, strays[0].first + 1
    return reading, None


def _swallowed(lines: Sequence[str], reading: Reading, separator: str) -> frozenset[int]:
    """Returns the indices of the first lines of records that seem to join several rows by mistake.

    Nearly all lines of such a record have as many fields as the header. Lines of a text can have as
    many commas by chance. So the record must have many lines, or its lines must share values, such
    as a label, with other lines.
    """
    rows = [r for r in reading.records[1:] if not r.kind and r.fields]
    several = [record for record in rows if record.end - record.first > 1]
    if not several or len(reading.records[0].fields or ()) < 2:
        return frozenset()
    width = len(reading.records[0].fields or ())
    tabs = separator == "\t"  # texts rarely contain tabs
    least = 1.0 if not tabs else 0.5 if len(several) > 1 else 0.0
    common: list[Counter[str]] = [Counter() for _ in range(width)]
    for record in rows:
        if record.end - record.first == 1:
            for counter, value in zip(common, record.fields or (), strict=True):
                counter[value.strip()] += 1
    firsts = set()
    for record in several:
        parts = [line.rstrip("\r\n").split(separator) for line in lines[record.first : record.end]]
        whole = [fields for fields in parts if len(fields) == width]
        ends = len(parts[0]) == len(parts[-1]) == width  # rarely true of a text with several lines
        if not ends or len(whole) < 0.9 * len(parts):
            continue
        inside = [Counter(value.strip() for value in column) for column in zip(*whole, strict=True)]
        known = sum(_known(fields, common) or _known(fields, inside) for fields in whole)
        if len(parts) >= MANY_LINES or known >= least * len(whole):
            firsts.add(record.first)
    return frozenset(firsts)


def _known(fields: Sequence[str], common: Sequence[Counter[str]]) -> bool:
    """Whether a field of a line has a value without quotes that occurs in at least two rows."""
    return any(
        value.strip() and '"' not in value and counter[value.strip()] > 1
        for value, counter in zip(fields, common, strict=True)
    )


def _quotes_enclose(reading: Reading, lines: Sequence[str], separator: str) -> bool:
    """Whether quotes enclose fields: the header has quotes, a field that needs quotes has them, or
    the enclosed fields outnumber the records with stray quotes.
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
