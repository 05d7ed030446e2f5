"""Encodes texts with markers around two entities; long ones are cut around both."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.encoding.text_encoding import check_last_tokens
from peftkit.tasks.encoding.token_windows import special_tokens
from peftkit.tasks.reading.entity_marks import with_marks

MARKERS = ("[E1]", "[/E1]", "[E2]", "[/E2]")
"""Tokens before and after the first entity, and before and after the second one."""
WRITTEN = re.compile(r"\[(/?E[12])\]")


def encode_marked(
    rows: Sequence[Row],
    targets: Array,
    tokenizer: Any,
    *,
    prefix: str,
    max_length: int,
    read: Sequence[str] = (),
) -> Examples:
    """Encodes rows with a text and the places of two entities, each as one example with one of each
    marker. Rows whose entities are too far apart for `max_length` are left out and counted.

    Args:
        targets: (rows,).
        tokenizer: it knows `MARKERS` as tokens.
        prefix: text to put before each text.
        max_length: most tokens of an example; the base may allow less.
        read: the two of `MARKERS` where an output is read; none if the head's pooling says where.
    """
    before, after = special_tokens(tokenizer)
    options = {"add_special_tokens": False, "verbose": False}
    if prefix:
        before = [*before, *tokenizer(prefix.strip(), **options)["input_ids"]]
    room = min(max_length, tokenizer.model_max_length) - len(before) - len(after)
    marks = tokenizer.convert_tokens_to_ids(list(MARKERS))
    encoded = tokenizer([marked_text(row) for row in rows], **options)["input_ids"] if rows else []
    kept, ids, truncated = [], [], 0
    for number, tokens in enumerate(encoded):
        if (cut := cut_around(tokens, marks, room)) is not None:
            kept.append(number)
            ids.append([*before, *cut, *after])
            truncated += len(cut) < len(tokens)
    values = Ragged.of(ids)
    check_last_tokens([rows[number] for number in kept], values, tokenizer)
    chosen = tokenizer.convert_tokens_to_ids(list(read))
    places = [[[of.index(mark) for mark in chosen]] for of in ids]
    unknown = tokenizer.unk_token_id
    return Examples(
        rows=tuple(rows[number] for number in kept),
        inputs={"input_ids": values},
        targets=targets[kept],
        read_at=Ragged.of(places, width=len(read)) if read else None,
        truncated=truncated,
        too_long=len(rows) - len(kept),
        unknown_tokens=0 if unknown is None else int((values.values == unknown).sum()),
    )


def marked_text(row: Row) -> str:
    """Returns a row's text with a marker before and after each entity. A marker that the text
    itself has gets spaces inside, `[ E1 ]`, so that it is no marker.
    """
    values = row.values
    pieces, done = "", 0
    places = [*values["head"], *values["tail"]]
    moved = dict.fromkeys(places, 0)
    text = values["text"]
    for place in sorted(moved):
        pieces += escaped(text[done:place])
        moved[place], done = len(pieces), place
    pieces += escaped(text[done:])
    head, tail = ((moved[start], moved[end]) for start, end in (values["head"], values["tail"]))
    return with_marks(pieces, _spaced(pieces, head), _spaced(pieces, tail), MARKERS)


def escaped(text: str) -> str:
    """Returns a text in which nothing is a marker."""
    return WRITTEN.sub(r"[ \1 ]", text)


def cut_around(tokens: Sequence[int], marks: Sequence[int], room: int) -> Sequence[int] | None:
    """Returns at most `room` tokens around both entities, with as many before them as after them
    if the text has so many; None if the entities are too far apart.

    Args:
        marks: ids of `MARKERS`; each is once among the tokens.
    """
    places = [tokens.index(mark) for mark in marks]
    first, stop = min(places), max(places) + 1
    spare = room - (stop - first)
    if spare < 0:
        return None
    left = max(spare // 2, spare - (len(tokens) - stop))
    start = max(0, first - left)
    return tokens[start : start + room]


def refuse_far_apart(examples: Examples, rows: Sequence[Row], max_length: int) -> None:
    """Raises DataError if rows were left out because their entities are too far apart."""
    if not examples.too_long:
        return
    kept = {id(row) for row in examples.rows}
    number = next(row.number for row in rows if id(row) not in kept)
    raise DataError(
        f"row {number}: its entities are too far apart for {max_length} tokens "
        f"({examples.too_long} such rows)",
        "shorten the text between them",
    )


def _spaced(text: str, span: tuple[int, int]) -> tuple[int, int]:
    """Returns a span with the space before it, so that tokenizers which read a space as part of a
    word read the entity as in a text without markers.
    """
    start, end = span
    return (start - 1 if start and text[start - 1] == " " else start), end
