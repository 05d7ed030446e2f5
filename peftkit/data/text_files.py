"""Reads text files, suggests their encodings, and refuses files that are not text."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from pathlib import Path

from peftkit.data.encodings import likely_encodings
from peftkit.errors import DataError

BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # before UTF-16's mark, which it begins with
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
"""Byte order mark -> the encoding that it stands for."""

EXCEL = (
    'save it as CSV UTF-8, or: pip install openpyxl && python -c "import pandas; '
    "pandas.read_excel('{path}').to_csv('{stem}.csv', index=False)\""
)
PARQUET = b"PAR1"
KINDS = (
    (b"version https://git-lfs", "a Git LFS pointer, not the file itself", "`git lfs pull`"),
    (b"PK\x03\x04", "a ZIP archive, as .xlsx files are", EXCEL),
    (b"\xd0\xcf\x11\xe0", "an old Excel file (.xls)", EXCEL.replace("openpyxl", "xlrd")),
    (b"\x1f\x8b", "compressed with gzip", "unpack it: `gunzip -k {path}`"),
    (PARQUET, "a Parquet file", "name it `{stem}.parquet`"),
    (b"\x89PNG", "a picture", "give a file of text"),
    (b"%PDF", "a PDF", "give a file of text"),
    (b"SQLite format 3", "an SQLite database", "export its table as CSV"),
    (b"<!DOCTYPE html", "a web page", "download the file itself, not the page about it"),
    (b"<html", "a web page", "download the file itself, not the page about it"),
)
"""(first bytes, what the file is, hint) for files that are not text, or not a table."""

HALF = "\udcff"
"""Replaces an incomplete character of UTF-16 or UTF-32."""
LONGEST_SAMPLE = 24
BY_CHANCE = 8
"""A file may be valid UTF-8 by chance if it has at most this many bytes more than characters."""
ENOUGH_BYTES = 20_000
"""Number of bytes that suffice to guess the encoding; only lines with non-ASCII bytes count."""


@dataclass(frozen=True)
class Text:
    """A file's text. Bytes that are not in its encoding become lone surrogates, so that
    errors can name their rows.
    """

    text: str
    encoding: str


def read_text(path: Path, encoding: str = "") -> Text:
    """Reads the text of a file.

    Args:
        encoding: the encoding in the recipe. Empty means the encoding of the byte order mark, or
            UTF-8 if there is none.

    Raises:
        DataError: the file is not text, or is in another encoding than the recipe says.
    """
    raw = path.read_bytes()
    refuse_other_kinds(path, raw)
    marked = next((name for mark, name in BYTE_ORDER_MARKS.items() if raw.startswith(mark)), "")
    if not marked and not encoding and (wide := _unmarked_wide(raw)):
        raise DataError(
            f"`{path}` is not UTF-8 text: its first characters have zero bytes between them, as in "
            f"{wide.upper()}",
            f"`--task.data.encoding {wide}`",
        )
    if encoding and not marked:
        _refuse_utf8(path, raw, encoding)
    used = marked or encoding or "utf-8"
    try:
        text = raw.decode(used, errors="surrogateescape")
    except UnicodeDecodeError:  # an incomplete wide character
        text = raw.decode(used, errors="replace").replace("\ufffd", HALF)
    return Text(text.lstrip("\ufeff"), used.removesuffix("-sig"))  # some tools write two marks


def refuse_other_kinds(path: Path, begins: bytes) -> None:
    """Raises DataError if a file's first bytes show that it is not what its name says."""
    for start, what, hint in KINDS:
        expected = path.suffix.lower() == ".parquet" and start == PARQUET
        if begins[: len(start)].lower() == start.lower() and not expected:
            raise DataError(
                f"`{path}` is {what}", hint.format(path=path, stem=path.with_suffix(""))
            )


def is_decoded(text: str) -> bool:
    """Whether all bytes of a text were in its file's encoding."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def encoding_hint(path: Path) -> str:
    """Returns a hint for a file that is not UTF-8: its likely encodings, or the advice to correct
    the lines that are not UTF-8. Empty if no encoding is likely.
    """
    lines: list[bytes] = []  # whole lines, so that no character is cut
    size = 0
    for line in path.read_bytes().splitlines():
        if not line.isascii() and size < ENOUGH_BYTES:
            lines.append(line)
            size += len(line)
    if any(_is_utf8(line) for line in lines):
        return "other lines are UTF-8: correct these lines, since the file mixes two encodings"
    guesses = likely_encodings(b"\n".join(lines))
    if not guesses:
        return ""
    shown = ", ".join(f"`{name}` (`{_sample(lines, name)}`)" for name in guesses)
    what = "it reads as" if len(guesses) == 1 else "it may be"
    return f"{what} {shown}: give `--task.data.encoding {guesses[0]}`"


def _sample(lines: list[bytes], encoding: str) -> str:
    """Returns the first word with a non-ASCII character, shortened; empty if there is none."""
    words = (w for line in lines for w in re.findall(r"[^\W_]+", line.decode(encoding)))
    return next((word for word in words if not word.isascii()), "")[:LONGEST_SAMPLE]


def _is_utf8(raw: bytes) -> bool:
    try:
        raw.decode()
    except UnicodeDecodeError:
        return False
    return True


def _unmarked_wide(raw: bytes) -> str:
    """Returns the name of the UTF-16 or UTF-32 variant of a file without a byte order mark, guessed
    from the places of zero bytes; empty if no variant fits.
    """
    for name, width, place in (
        ("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1),
    ):  # fmt: skip
        for start, share in ((raw[:16], 1.0), (raw[:2000], 0.7)):
            others = [start[at::width] for at in range(width) if at != place]
            zeros = sum(part.count(0) for part in others)
            letters = start[place::width]
            enough = len(letters) > 3 and letters.count(0) < len(letters) / 2
            if enough and zeros >= share * sum(map(len, others)):
                return name
    return ""


def _refuse_utf8(path: Path, raw: bytes, encoding: str) -> None:
    """Raises DataError if a file is UTF-8, but the recipe gives another encoding.

    Files with few non-ASCII characters pass: they may be UTF-8 by chance, as `模` in GBK is.
    """
    if codecs.lookup(encoding).name in ("utf-8", "utf-8-sig"):
        return
    try:
        length = len(raw.decode())
    except UnicodeDecodeError:
        return
    if len(raw) - length <= BY_CHANCE:
        return
    lines = [line for line in raw.splitlines() if not line.isascii()]
    raise DataError(
        f"`{path}` is UTF-8 (`{_sample(lines, 'utf-8')}`), but `encoding` is `{encoding}`",
        "leave `encoding` out",
    )
