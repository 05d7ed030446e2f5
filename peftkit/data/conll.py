"""Reads files of words with tags, one word a line (CoNLL; Tjong Kim Sang & De Meulder 2003).

    EU NNP B-ORG          columns, separated by tabs or by spaces
    rejects VBZ O
                          a blank line ends a sentence
    -DOCSTART- -X- O      a document begins; its sentences form a group

The first column is named `tokens`, the last one `labels`, and those between them `column_2` and so
on, whatever a header calls them. Each row is a sentence, and its number is that of its first line.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from peftkit.data.rows import Malformed, Table, folded_name
from peftkit.data.text_files import is_decoded
from peftkit.errors import DataError, quoted
from peftkit.wording import plural

DOCUMENT = "document"
"""Column with the name of each sentence's document, in files with `-DOCSTART-` lines."""
DOCUMENT_START = "-DOCSTART-"
TAG = re.compile(r"O|[BIESUL]-\S+")
WORD_NAMES = ("token", "tokens", "word", "words", "form", "text")
TAG_NAMES = (
    "tag", "tags", "label", "labels", "ner", "nertag", "nertags", "entity", "entities", "bio",
    "iob", "pos", "postag", "postags", "upos", "xpos", "chunk", "slot", "slots",
)  # fmt: skip
"""Usual names of the first and the last column in the header of a file, as `folded_name` gives
them."""
SAMPLED_LINES = 2000
MOST = 0.9
"""Least share of the sampled lines whose last column is a tag in a file that looks like CoNLL."""


@dataclass
class _Sentence:
    """The lines of a sentence: (line number, fields) of each."""

    document: str
    words: list[tuple[int, list[str]]] = field(default_factory=list)


def read_conll(path: Path, text: str, encoding: str, separator: str = "") -> Table:
    """Returns the table of a file of words with tags: a list for each column of a sentence.

    Args:
        encoding: encoding of the file, for messages.
        separator: character between columns; tabs or spaces, whichever the file has, if empty.

    Raises:
        DataError: the file has no words.
    """
    lines = _lines(text)
    separator = separator or _separator(lines)
    sentences, documents = _sentences(lines, separator, path.name)
    sentences, notes = _without_header(sentences, str(path))
    counts = Counter(len(fields) for sentence in sentences for _, fields in sentence.words)
    if not counts:
        raise DataError(f"`{path}` has no words", "give a file with a word and its tag in a line")
    width = counts.most_common(1)[0][0]
    columns = _columns(width)
    rows: list[tuple[int, dict[str, object]]] = []
    malformed: list[Malformed] = []
    for sentence in sentences:
        if wrong := _first_fault(sentence, width, encoding):
            malformed.append(wrong)
            continue
        by_column = zip(*(fields for _, fields in sentence.words), strict=True)
        values: dict[str, object] = dict(zip(columns, map(list, by_column), strict=True))
        if documents:
            values[DOCUMENT] = sentence.document
        rows.append((sentence.words[0][0], values))
    named = (*columns, DOCUMENT) if documents else columns
    return Table(
        str(path), named, tuple(rows), tuple(malformed), "line", word_a_line=True, notes=notes
    )


def looks_like_conll(text: str) -> bool:
    """Whether a text has blank lines between blocks of lines, each of which ends in a tag such as
    `O` or `B-PER`.
    """
    lines = _lines(text)[:SAMPLED_LINES]
    separator = _separator(lines)
    filled = [line for line in lines if line.strip() and not line.startswith("#")]
    fields = [_split(line, separator) for line in filled]
    tagged = sum(len(line) > 1 and TAG.fullmatch(line[-1]) is not None for line in fields)
    return len(filled) < len(lines) - 1 and tagged >= MOST * len(filled) > 0


def _lines(text: str) -> list[str]:
    """Splits a text at line ends only; a word may be a rare separator such as U+2028."""
    return re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff"))


def _separator(lines: Sequence[str]) -> str:
    """Returns a tab if most lines with words have one, otherwise a space."""
    filled = [line for line in lines if line.strip() and not line.startswith("#")]
    return "\t" if sum("\t" in line for line in filled) > len(filled) / 2 else " "


def _split(line: str, separator: str) -> list[str]:
    if separator == " ":
        return re.split(r"[ \t]+", line.strip(" \t"))
    return [part.strip(" ") for part in line.split(separator)]


def _sentences(lines: Sequence[str], separator: str, file: str) -> tuple[list[_Sentence], bool]:
    """Returns the sentences, and whether the file is divided into documents."""
    number = 0  # of the document
    sentences = [_Sentence("")]
    for place, line in enumerate(lines, start=1):
        fields = _split(line, separator)
        if not line.strip() or fields[0] == DOCUMENT_START:
            number += fields[0] == DOCUMENT_START
            sentences.append(_Sentence(f"{file} {DOCUMENT} {number}"))
        elif sentences[-1].words or not _is_comment(line, fields):
            sentences[-1].words.append((place, fields))
    return [sentence for sentence in sentences if sentence.words], number > 0


def _without_header(
    sentences: Sequence[_Sentence], file: str
) -> tuple[list[_Sentence], tuple[str, ...]]:
    """Leaves out a first line that names the columns, such as `token` and `tag`; returns a note on
    it. A line is no header if another one has its tag.
    """
    lines = [line for sentence in sentences for line in sentence.words]
    if not lines or not _are_names(lines[0][1]):
        return list(sentences), ()
    (number, fields), others = lines[0], lines[1:]
    if any(other[-1] == fields[-1] for _, other in others):
        return list(sentences), ()
    first = _Sentence(sentences[0].document, sentences[0].words[1:])
    note = f"line {number} of `{file}` is a header ({quoted(fields)}), and is left out"
    return [first, *sentences[1:]] if first.words else list(sentences[1:]), (note,)


def _are_names(fields: Sequence[str]) -> bool:
    names = list(map(folded_name, fields))
    return names[-1] in TAG_NAMES and not {*names[:-1]}.isdisjoint(WORD_NAMES)


def _is_comment(line: str, fields: Sequence[str]) -> bool:
    """Whether a line before a sentence is a comment, not a word such as `#` with its tag."""
    return line.startswith("#") and not (len(fields) > 1 and TAG.fullmatch(fields[-1]))


def _columns(width: int) -> tuple[str, ...]:
    if width == 1:
        return ("tokens",)
    return ("tokens", *(f"column_{number}" for number in range(2, width)), "labels")


def _first_fault(sentence: _Sentence, width: int, encoding: str) -> Malformed | None:
    """Returns the first line of a sentence that cannot be used, and why; None if all can."""
    return next(_faults(sentence, width, encoding), None)


def _faults(sentence: _Sentence, width: int, encoding: str) -> Iterator[Malformed]:
    for number, fields in sentence.words:
        if not all(map(is_decoded, fields)):
            yield Malformed(number, f"not {encoding.upper()}")
        elif len(fields) != width:
            yield Malformed(number, f"line with {plural(len(fields), 'column')}, not {width}")
        elif not all(fields):
            empty = _columns(width)[fields.index("")]
            yield Malformed(number, f"line without a {'word' if empty == 'tokens' else 'tag'}")
