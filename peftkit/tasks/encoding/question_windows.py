"""Encodes questions with their contexts as windows of tokens, in which an answer is a span.

An example is the question and a part of its context; only the context is cut. Each token of the
context is read once: in the window that has more context around it. Besides, each window has a
place that is read for "no answer here": its first token, or the last one in a decoder, whose first
token sees no other.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.encoding.token_windows import SPACES

TOKEN = "token"
"""Column of the examples: for each output, the index of its token in the context; -1 for the place
of "no answer"."""
OFFSETS = "offsets"
"""Column of the examples, (outputs, 2): the first character of each output's token in the context,
and the index after its last one; -1 for the place of "no answer"."""
USUAL_OVERLAP = 128
"""Tokens that neighbouring windows share if the recipe does not say how many."""
CHUNK = 512
"""Number of rows that are tokenized together."""
LEAST_ROOM = 8
"""Fewest tokens of a context that must fit beside the question."""


@dataclass(frozen=True)
class Limits:
    """How rows are cut into windows."""

    max_length: int
    """Most tokens of a window."""
    overlap: int
    """Tokens that neighbouring windows share, at most half of a window's context."""
    prefix: str = ""
    """Text before each question."""
    reads_last: bool = False
    """Whether "no answer" is read at the last token of a window, not at the first."""
    segments: bool = True
    """Whether the base tells question and context apart by segment ids."""


@dataclass(frozen=True)
class _Encoding:
    """A row's tokens."""

    before: Array
    context: Array
    after: Array
    types: Array | None
    """Segment ids of all tokens, if the base reads them."""
    offsets: Array
    """(context, 2), place of each token of the context, in characters."""


@dataclass(frozen=True)
class _Window:
    """A part of a context, with the question."""

    ids: Array
    types: Array | None
    places: Array
    """(outputs,), the places that are read."""
    tokens: Array
    """(outputs,), see `TOKEN`."""
    offsets: Array
    """(outputs, 2), see `OFFSETS`."""
    targets: Array
    """(outputs, 2), whether the answer starts and ends there."""


def encode_questions(rows: Sequence[Row], tokenizer: Any, limits: Limits) -> Examples:
    """Encodes all rows as windows. The target of a row is its most frequent answer; without one,
    and in windows where the answer is not read, it is the place of "no answer". A window that reads
    only one end of the answer has no target for the other end.

    Args:
        rows: have the values `question`, `context` and, for training, `answers`.

    Raises:
        DataError: a question leaves no room for its context, or a context has no tokens.
    """
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer of `{tokenizer.name_or_path}` does not map tokens to characters",
            "choose a base with a fast tokenizer",
        )
    limits = replace(limits, max_length=min(limits.max_length, tokenizer.model_max_length))
    spaces = set(tokenizer.convert_tokens_to_ids(list(SPACES))) - {tokenizer.unk_token_id, None}
    windows: list[_Window] = []
    row_of: list[int] = []
    for number, encoding in enumerate(_encodings(rows, tokenizer, limits)):
        cut = _windows(rows[number], encoding, _target(rows[number], encoding, spaces), limits)
        windows += cut
        row_of += [number] * len(cut)
    ids = Ragged.of(window.ids for window in windows)
    inputs = {"input_ids": ids}
    if windows and windows[0].types is not None:
        inputs["token_type_ids"] = Ragged.of(window.types for window in windows)
    return Examples(
        rows=tuple(rows),
        inputs=inputs,
        targets=_joined([window.targets for window in windows], np.float32),
        read_at=Ragged.of((window.places for window in windows), width=1),
        row_of=np.array(row_of, np.int64),
        columns={
            TOKEN: np.concatenate([np.zeros(0, int), *(window.tokens for window in windows)]),
            OFFSETS: _joined([window.offsets for window in windows], np.int32),
        },
        unknown_tokens=int((ids.values == tokenizer.unk_token_id).sum()),
    )


def _joined(parts: Sequence[Array], dtype: Any) -> Array:
    return np.concatenate([np.zeros((0, 2), dtype), *parts]).astype(dtype)


def _encodings(rows: Sequence[Row], tokenizer: Any, limits: Limits) -> Iterator[_Encoding]:
    """Yields the tokens of each row."""
    between = "" if _are_separated(tokenizer) else "\n"
    for start in range(0, len(rows), CHUNK):
        some = rows[start : start + CHUNK]
        questions = [limits.prefix + row.values["question"] + between for row in some]
        contexts = [row.values["context"] for row in some]
        encoded = tokenizer(questions, contexts, return_offsets_mapping=True, verbose=False)
        for place, row in enumerate(some):
            in_context = np.flatnonzero([part == 1 for part in encoded.sequence_ids(place)])
            if not len(in_context):
                raise DataError(
                    f"row {row.number}: the tokenizer gives no token for the context "
                    f"{row.values['context'][:30]!r}",
                    "remove the row",
                )
            first, stop = int(in_context[0]), int(in_context[-1]) + 1
            ids = np.array(encoded["input_ids"][place], np.int32)
            after, types = ids[stop:], None
            if limits.segments and "token_type_ids" in encoded:
                types = np.array(encoded["token_type_ids"][place], np.int32)
            if limits.reads_last and not len(after):
                after = np.array([_end(tokenizer)], np.int32)
                types = None if types is None else np.append(types, types[-1])
            offsets = np.array(encoded["offset_mapping"][place][first:stop], np.int32)
            yield _Encoding(ids[:first], ids[first:stop], after, types, offsets)


def _are_separated(tokenizer: Any) -> bool:
    """Whether the tokenizer puts a special token between two texts."""
    parts = tokenizer("a", "a").sequence_ids(0)
    second = parts.index(1)
    return second > 0 and parts[second - 1] is None


def _end(tokenizer: Any) -> int:
    """The token at which a decoder is read after the context."""
    tokens = (tokenizer.eos_token_id, tokenizer.sep_token_id, tokenizer.pad_token_id)
    return next(int(token) for token in tokens if token is not None)


def _windows(
    row: Row, encoding: _Encoding, target: tuple[int, int], limits: Limits
) -> list[_Window]:
    """Cuts a row's context into windows from left to right. Each token is read in the window with
    the most context on the token's shorter side; of two equal ones, in the first.

    Args:
        target: see `_target`.
    """
    length, taken = len(encoding.context), len(encoding.before) + len(encoding.after)
    room = limits.max_length - taken
    if room < min(length, LEAST_ROOM):
        raise DataError(
            f"row {row.number}: the question `{row.values['question'][:30]}...` takes {taken} of "
            f"{limits.max_length} tokens, which leaves {max(0, room)} for the context",
            "shorten the question, or raise `task.max_length` if the base allows it",
        )
    step = room - min(limits.overlap, room // 2)
    last = max(0, -(-(length - room) // step))
    places = np.arange(length)
    later = np.minimum(places // step, last)
    earlier = np.maximum(later - 1, 0)  # no other window has the token, as at most half overlaps

    def depth(window: Array) -> Array:
        start = window * step
        depths: Array = np.minimum(places - start, np.minimum(start + room, length) - 1 - places)
        return depths

    chosen = np.where(depth(earlier) >= depth(later), earlier, later)
    return [
        _window(encoding, (number * step, number * step + room), np.flatnonzero(chosen == number),
                target, limits.reads_last)
        for number in range(last + 1)
    ]  # fmt: skip


def _window(
    encoding: _Encoding, span: tuple[int, int], read: Array, target: tuple[int, int], last: bool
) -> _Window:
    """Makes a window.

    Args:
        span: the tokens of the context that are in the window.
        read: those that are read in it.
        target: see `_target`.
        last: whether "no answer" is read at the last token.
    """
    before, part = len(encoding.before), encoding.context[slice(*span)]
    ids = np.concatenate([encoding.before, part, encoding.after])
    types = encoding.types
    if types is not None:
        left_out = np.arange(before + len(part), before + len(encoding.context))
        types = np.delete(types, left_out)
    tokens, places = np.append(-1, read), np.append(0, read - span[0] + before)
    offsets = np.concatenate([np.full((1, 2), -1), encoding.offsets[read]])
    if last:
        places[0] = len(ids) - 1
        tokens, places, offsets = (
            np.roll(column, -1, axis=0) for column in (tokens, places, offsets)
        )
    elsewhere = -2 if any(token in read for token in target) else -1
    wanted = [token if token in read else min(token, elsewhere) for token in target]
    return _Window(ids, types, places, tokens, offsets, tokens[:, None] == wanted)


def _target(row: Row, encoding: _Encoding, spaces: set[int]) -> tuple[int, int]:
    """Returns the first and the last token of a row's answer; -1 if the context has none, -2 if the
    row does not say it, or no token has a part of it.
    """
    answers = row.values.get("answers")
    if not answers:
        return (-1, -1) if answers is not None else (-2, -2)
    text, start = max(answers, key=answers.count)
    found = covering(encoding.offsets, start, start + len(text))
    if found is None:
        return -2, -2
    first, last = found
    while first < last and int(encoding.context[first]) in spaces:
        first += 1  # a token that is only the space before a word
    return first, last


def covering(offsets: Array, start: int, end: int) -> tuple[int, int] | None:
    """Returns the first and the last token that have a character of a span; None if none has.

    Args:
        offsets: (tokens, 2).
        start, end: index of the span's first character, index after its last one.
    """
    inside = np.flatnonzero((offsets[:, 0] < end) & (offsets[:, 1] > start))
    return (int(inside[0]), int(inside[-1])) if len(inside) else None


def characters(context: str, offsets: Array, first: int, last: int) -> tuple[int, int]:
    """Returns the characters of a span of tokens: index of the first one, index after the last one.

    White space at its ends is left out. Marks that belong to its last character, but which the
    tokenizer has joined with it or dropped, are in it.
    """
    start, end = int(offsets[first, 0]), int(offsets[last, 1])
    limit = int(offsets[last + 1, 0]) if last + 1 < len(offsets) else len(context)
    while end < limit and _belongs(context[end]):
        end += 1
    end = max(start, end)
    while start < end and context[start].isspace():
        start += 1
    while start < end and context[end - 1].isspace():
        end -= 1
    return start, end


def _belongs(char: str) -> bool:
    """Whether a character is a part of the one before it: a mark, or a letter of a Korean
    syllable.
    """
    return unicodedata.category(char)[0] == "M" or "\u1160" <= char <= "\u11ff"
