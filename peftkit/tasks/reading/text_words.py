"""Finds the words of a text, and the text of words, with the place of each in characters."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache

Span = tuple[int, int]
"""Index of the first character, index after the last one."""
CJK = re.compile(
    "[\u2e80-\u2fdf\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
    "\uff66-\uff9f\U0001b000-\U0001b16f\U00020000-\U0003ffff]"
)
"""Pattern of the characters of Chinese and Japanese, which are written without spaces."""
WIDE_MARK = re.compile("[\u3001-\u303f\uff01-\uff65]")
"""Pattern of the punctuation of Chinese and Japanese."""
CLITIC = re.compile(r"(?<=\w)['’](?:s|m|re|ve|ll|d)$", re.IGNORECASE)
"""Pattern of the ending that tagged English has as a word of its own."""
SPACES = "\u200b\ufeff\ufffd\u2060"
"""Characters without a width, and the one for unreadable bytes, which no tokenizer keeps."""


def words_of(text: str, whole_words: bool = False) -> list[Span]:
    """Finds the words of a text: characters of Chinese and Japanese, marks of punctuation and
    symbols one by one, and runs of other characters between white space.

    Args:
        whole_words: whether punctuation inside a word belongs to it (`U.S`, `e-mail`, `@home`), and
            only that at its ends stands alone, as in files of tagged words.
    """
    found: list[Span] = []
    for run in _runs(text):
        found += _outer(text, run) if whole_words else _pieces(text, run)
    return found


def is_glued(before: str, word: str) -> bool:
    """Whether two neighbouring words of a list are written without a space between them."""
    return all(CJK.match(edge) or WIDE_MARK.match(edge) for edge in (before[-1], word[0]))


def joined(words: Sequence[str]) -> tuple[str, list[Span]]:
    """Joins words to a text; returns it and the place of each word."""
    text, places = "", []
    for number, word in enumerate(words):
        space = "" if number == 0 or is_glued(words[number - 1], word) else " "
        places.append((len(text) + len(space), len(text) + len(space) + len(word)))
        text += space + word
    return text, places


def snapped(span: Span, words: Sequence[Span]) -> Span | None:
    """Returns the words that a span of characters touches, as (first word, index after the last
    one); None if it touches none.
    """
    inside = [
        place for place, (start, end) in enumerate(words) if start < span[1] and span[0] < end
    ]
    return (inside[0], inside[-1] + 1) if inside else None


@lru_cache(maxsize=65536)
def _kind(character: str) -> str:
    """Returns `space`, `alone`, `mark` (belongs to the character before it) or `inner`."""
    category = unicodedata.category(character)
    if character.isspace() or character in SPACES or category in ("Cc", "Cn", "Co", "Cs"):
        return "space"
    if category[0] == "M" or category == "Cf":
        return "mark"
    return "alone" if category[0] in "PS" or CJK.match(character) else "inner"


def _runs(text: str) -> list[Span]:
    """Finds the runs of characters between white space; marks at their edges are left out."""
    runs, start = [], -1
    for place, character in enumerate((*text, " ")):
        kind = _kind(character)
        if start < 0 and kind in ("inner", "alone"):
            start = place
        elif start >= 0 and kind == "space":
            end = place
            while unicodedata.category(text[end - 1]) == "Cf":
                end -= 1
            runs.append((start, end))
            start = -1
    return runs


def _pieces(text: str, run: Span) -> list[Span]:
    """Splits a run at each character that stands alone."""
    pieces: list[Span] = []
    before = "alone"
    for place in range(*run):
        kind = _kind(text[place])
        if kind == "mark" or kind == before == "inner":
            pieces[-1] = (pieces[-1][0], place + 1)
        else:
            pieces.append((place, place + 1))
            before = kind
    return pieces


def _outer(text: str, run: Span) -> list[Span]:
    """Splits a run at characters of Chinese and Japanese, and at punctuation at the ends of words;
    `@` and `#` before a word stay.
    """
    pieces = _pieces(text, run)
    words: list[list[Span]] = [[]]
    for piece in pieces:
        if CJK.match(text[piece[0]]):
            words += [[piece], []]
        else:
            words[-1].append(piece)
    return [span for parts in words for span in _trimmed(text, parts)]


def _trimmed(text: str, parts: Sequence[Span]) -> list[Span]:
    inner = [place for place, (start, _) in enumerate(parts) if _kind(text[start]) == "inner"]
    if not inner:
        return list(parts)
    first, last = inner[0], inner[-1]
    if first and text[parts[first - 1][0]] in "@#":
        first -= 1
    start, end = parts[first][0], parts[last][1]
    ending = CLITIC.search(text[start:end])
    inside = [(start, start + ending.start()), (start + ending.start(), end)] if ending else []
    return [*parts[:first], *(inside or [(start, end)]), *parts[last + 1 :]]
