"""Reads the files of SemEval-2010 task 8 (Hendrickx et al. 2010): sentences with a relation.

    1	"The <e1>author</e1> of a keygen uses a <e2>disassembler</e2>."      number, tab, sentence
    Instrument-Agency(e2,e1)                                             the relation
    Comment: an assembly is assembled                                    may be absent
                                                                         a blank line

The columns are `id` (the sentence's number), `text`, `relation` and `comment`. A file whose
sentences have no relations, such as the one that was given out for the test, has `id` and `text`
only. Each row is a sentence, and its number is that of its first line.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

from peftkit.data.rows import Malformed, Table
from peftkit.data.text_files import is_decoded

SENTENCE = re.compile(r'(\d+)\t"?(.*?)"?\s*')
MARK = re.compile(r"<(/?)e([12])>")
"""A mark before or after an entity: the slash if it is after it, and the entity's number."""
NUMBER = "id"
"""Column with the number of the sentence."""
COMMENT = "comment"
"""Column with what the annotators noted."""
NOTED = "comment:"
SAMPLED_LINES = 2000
MOST = 0.9
"""Least share of the numbered sentences that have marks in a file of marked sentences."""


def read_marked_sentences(path: Path, text: str, encoding: str) -> Table:
    """Reads a file of sentences with marked entities and their relations."""
    rows, malformed = [], []
    blocks = list(_blocks(text))
    labelled = any(_relations(lines) for _, lines in blocks)
    for number, lines in blocks:
        if wrong := _fault(lines, labelled, encoding):
            malformed.append(Malformed(number, wrong))
            continue
        values: dict[str, object] = _sentence(lines)
        if labelled:
            values["relation"] = _relations(lines)[0]
            values[COMMENT] = _comment(lines)
        rows.append((number, values))
    columns = (NUMBER, "text", "relation", COMMENT) if labelled else (NUMBER, "text")
    return Table(str(path), columns, tuple(rows), tuple(malformed), "line")


def looks_like_marked_sentences(text: str) -> bool:
    """Whether a text has numbered sentences with marks such as `<e1>`."""
    lines = text.removeprefix("\ufeff").splitlines()[:SAMPLED_LINES]
    numbered = [line for line in lines if SENTENCE.fullmatch(line)]
    marked = sum(MARK.search(line) is not None for line in numbered)
    return marked >= MOST * len(numbered) > 0


def _blocks(text: str) -> Iterator[tuple[int, list[str]]]:
    """Yields the number of each sentence's line, and that line with those that follow it."""
    begun, lines = 0, list[str]()
    for place, line in enumerate(re.split(r"\r\n|\n|\r", text.removeprefix("\ufeff")), start=1):
        if lines and (SENTENCE.fullmatch(line) or not line.strip()):
            yield begun, lines
            lines = []
        if line.strip():
            begun = begun if lines else place
            lines.append(line.strip(" "))
    if lines:
        yield begun, lines


def _fault(lines: Sequence[str], labelled: bool, encoding: str) -> str:
    """Says why a block cannot be used; empty if it can."""
    if not all(map(is_decoded, lines)):
        return f"not {encoding.upper()}"
    if not SENTENCE.fullmatch(lines[0]):
        return "line without a number, a tab and a sentence"
    relations = _relations(lines)
    if len(relations) > 1:
        return f"sentence with {len(relations)} relations"
    return "sentence without a relation" if labelled and not relations else ""


def _sentence(lines: Sequence[str]) -> dict[str, object]:
    """Returns a sentence with its number."""
    found = SENTENCE.fullmatch(lines[0])
    assert found is not None
    return {NUMBER: found[1], "text": found[2].strip()}


def _relations(lines: Sequence[str]) -> list[str]:
    """Returns the lines after the sentence that are no comment."""
    return [line.strip() for line in lines[1:] if not line.casefold().startswith(NOTED)]


def _comment(lines: Sequence[str]) -> str:
    noted = (line for line in lines[1:] if line.casefold().startswith(NOTED))
    found = (line[len(NOTED) :].strip() for line in noted)
    return next(found, "")
