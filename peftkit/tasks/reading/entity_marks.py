"""Reads and writes marks around two entities in a text: `<e1>Ada</e1> lives in <e2>London</e2>`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from peftkit.data.marked_sentences import MARK
from peftkit.data.rows import Row
from peftkit.tasks.reading.text_words import Span

LIKE_MARK = re.compile(r"(?:<|\[|&lt;)(/?e[12])(?:>|\]|&gt;)", re.IGNORECASE)
"""What others write around entities."""
LONGEST = 300
"""Most characters of a text in a report."""
MANY_INSIDE = 0.2
"""Share of entities that end inside a word above which the ends may be wrong."""
OVERLAP = "<e1> and <e2> overlap"
ADVICE = "write <e1>…</e1> around the first entity and <e2>…</e2> around the second"


def read_marks(text: str, column: str) -> tuple[str, Span, Span] | str:
    """Returns a text without its marks, and the places of both entities in it, or says what is
    malformed.

    Args:
        column: name of the text in messages.
    """
    if wrong := wrong_marks(text, column):
        return wrong
    plain, done = "", 0
    places: dict[tuple[str, str], int] = {}
    for mark in MARK.finditer(text):
        plain += text[done : mark.start()]
        places[mark[1], mark[2]] = len(plain)
        done = mark.end()
    plain += text[done:]
    spans = [trimmed(plain, (places["", name], places["/", name])) for name in "12"]
    if empty := [f"<e{name}>" for name, (start, end) in zip("12", spans, strict=True)
                 if start == end]:  # fmt: skip
        return f"{column} has nothing inside {empty[0]}"
    return f"{column}: {OVERLAP}" if overlap(*spans) else (plain, spans[0], spans[1])


def wrong_marks(text: str, column: str) -> str:
    """Says which mark is missing, repeated or at a wrong place; empty if none is."""
    marks = [mark[0] for mark in MARK.finditer(text)]
    if not marks:
        like = LIKE_MARK.search(text)
        advice = f"; write `<{like[1].lower()}>` for `{like[0]}`" if like else f"; {ADVICE}"
        return f"{column} has no marks{advice}"
    for name in ("e1", "e2"):
        for mark in (f"<{name}>", f"</{name}>"):
            if mark not in marks:
                return f"{column} has no {mark}"
            if (count := marks.count(mark)) > 1:
                return f"{column} has {mark} {count} times"
        if marks.index(f"</{name}>") < marks.index(f"<{name}>"):
            return f"{column} has </{name}> before <{name}>"
    if marks[1] != marks[0].replace("<", "</"):
        return f"{column}: {OVERLAP}"
    return ""


def overlap(one: Span, other: Span) -> bool:
    """Whether two spans have a character in common."""
    return one[0] < other[1] and other[0] < one[1]


def trimmed(text: str, span: Span) -> Span:
    """Returns a span without white space at its ends."""
    inner = text[slice(*span)]
    start = span[0] + len(inner) - len(inner.lstrip())
    return start, max(start, span[0] + len(inner.rstrip()))


def marked(row: Row) -> str:
    """Returns a row's text with marks around its two entities."""
    text, head, tail = (row.values[name] for name in ("text", "head", "tail"))
    return with_marks(text, head, tail, ("<e1>", "</e1>", "<e2>", "</e2>"))


def shown(row: Row) -> str:
    """Returns `marked(row)`, or of a long text the part around both entities."""
    text = marked(row)
    marks = list(MARK.finditer(text))
    start = max(0, min(marks[0].start() - LONGEST // 4, len(text) - LONGEST))
    stop = max(start + LONGEST, marks[-1].end())
    return "… " * (start > 0) + text[start:stop] + " …" * (stop < len(text))


def ends_inside_words(rows: Sequence[Row]) -> Iterator[str]:
    """Yields a note if many entities end inside a word, as they do if ends name the last character.
    Only Latin letters are looked at, as other scripts may have no spaces.
    """
    ends = [
        row.values["text"][end - 1 : end + 1]
        for row in rows
        for _, end in (row.values["head"], row.values["tail"])
    ]
    inside = sum(len(pair) == 2 and pair.isascii() and pair.isalnum() for pair in ends)
    if inside > MANY_INSIDE * len(ends):
        yield (
            f"{inside:,} of {len(ends):,} entities end inside a word: an end is "
            "the place after the last character, not the last character"
        )


def with_marks(text: str, head: Span, tail: Span, marks: Sequence[str]) -> str:
    """Returns a text with any four marks, around the first entity and around the second one."""
    begins = (True, False, True, False)
    places = zip((*head, *tail), begins, marks, strict=True)
    for place, _, mark in sorted(places, reverse=True):  # at one place, an end precedes a beginning
        text = text[:place] + mark + text[place:]
    return text
