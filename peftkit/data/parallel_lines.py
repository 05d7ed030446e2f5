"""Reads two plain text files; each line of one translates the same line of the other."""

from __future__ import annotations

from pathlib import Path

from peftkit.data.rows import Malformed, Table
from peftkit.data.text_files import is_decoded, read_text
from peftkit.errors import DataError, not_found
from peftkit.wording import plural


def read_parallel_lines(
    path: Path, other: Path, columns: tuple[str, str], encoding: str = ""
) -> Table:
    """Reads two files as a table of two columns. Lines that are empty in both files are left out,
    with a note.

    Args:
        columns: names of the columns for the lines of `path` and of `other`.

    Raises:
        DataError: a file is missing, or one has more lines than the other.
    """
    lines = []
    for file in (path, other):
        if not file.is_file():
            raise DataError(f"no file `{file}`", not_found(file))
        found = read_text(file, encoding).text.removeprefix("\ufeff").split("\n")
        lines.append(found[:-1] if found[-1] == "" else found)
    if len(lines[0]) != len(lines[1]):
        raise DataError(
            f"`{path}` has {plural(len(lines[0]), 'line')}, and `{other}` has {len(lines[1]):,}",
            "give files in which each line translates the same line of the other",
        )
    rows, malformed, empty = [], [], 0
    for number, pair in enumerate(zip(*lines, strict=True), start=1):
        texts = [text.removesuffix("\r") for text in pair]
        if not all(map(is_decoded, texts)):
            malformed.append(Malformed(number, "not UTF-8" if not encoding else f"not {encoding}"))
        elif any(text.strip() for text in texts):
            rows.append((number, dict(zip(columns, texts, strict=True))))
        else:
            empty += 1
    note = (
        f"left out {plural(empty, 'line')} of `{path}` that {'is' if empty == 1 else 'are'} empty"
    )
    notes = (f"{note} in both files",) if empty else ()
    return Table(str(path), columns, tuple(rows), tuple(malformed), "line", notes=notes)
