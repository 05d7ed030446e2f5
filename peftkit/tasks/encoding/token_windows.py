"""Encodes rows of words as windows of tokens; each word's label is read at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.reading.text_words import is_glued
from peftkit.wording import plural

WORD = "word"
"""Column of the examples: for each output, the index of its word in the row."""
SPACES = "\u2581\u0120"
"""Tokens that are only a space: SentencePiece's, and that of byte-level tokenizers."""


@dataclass(frozen=True)
class _RowTokens:
    """The tokens of a row, without special ones."""

    ids: list[int]
    firsts: dict[int, int]
    """Index of a word -> place of the token where it is read."""


def encode_windows(
    rows: Sequence[Row],
    targets: Sequence[Sequence[int]],
    tokenizer: Any,
    max_length: int,
    overlap: int,
) -> Examples:
    """Encodes all rows as windows.

    Args:
        rows: each has a list of words as its value `tokens`; if they are from a text, `spans` holds
            their places in it.
        targets: for each row, the target of each word.
        overlap: tokens that neighbouring windows of a row share, at most half a window.

    Raises:
        DataError: the tokenizer gives no token for a word, or does not map tokens to words.
    """
    _check_fast(tokenizer)
    tokens = _tokenized(rows, tokenizer)
    _check_all_read(rows, tokens)
    before, after = special_tokens(tokenizer)
    room = max(1, min(max_length, tokenizer.model_max_length) - len(before) - len(after))
    overlap = min(overlap, room // 2)
    ids, read_at, row_of, words, chosen = [], [], [], [], []
    for number, row in enumerate(tokens):
        for start, read in sorted(_windows(row, room, overlap).items()):
            ids.append([*before, *row.ids[start : start + room], *after])
            read_at.append([row.firsts[word] - start + len(before) for word in read])
            row_of.append(number)
            words += read
            chosen += [targets[number][word] for word in read]
    values = Ragged.of(ids)
    return Examples(
        rows=tuple(rows),
        inputs={"input_ids": values},
        targets=np.array(chosen, np.int64),
        read_at=Ragged.of(read_at, width=1),
        row_of=np.array(row_of, np.int64),
        columns={WORD: np.array(words, np.int64)},
        unknown_tokens=int((values.values == tokenizer.unk_token_id).sum()),
    )


def split_by_row(column: Array, examples: Examples) -> list[Array]:
    """Splits a column with one value per output into one array per row, in the order of the row's
    words.
    """
    assert examples.row_of is not None
    assert examples.read_at is not None
    rows = np.repeat(examples.row_of, examples.read_at.lengths)
    words = examples.columns[WORD]
    assert not isinstance(words, Ragged)
    order = np.lexsort((words, rows))
    sizes = np.bincount(rows, minlength=len(examples.rows))
    return np.split(column[order], np.cumsum(sizes)[:-1])


def _check_fast(tokenizer: Any) -> None:
    if not tokenizer.is_fast:
        raise DataError(
            f"the tokenizer of `{tokenizer.name_or_path}` does not map tokens to words",
            "choose a base with a fast tokenizer",
        )


def _tokenized(rows: Sequence[Row], tokenizer: Any) -> list[_RowTokens]:
    """Returns the tokens of each row. A word is read at its first token, or at its second one if
    the first is only the space before it; words written without a space get no such token. A word
    for which the tokenizer has no token, such as U+FE0F alone, gets the unknown one.
    """
    before = _before_words(tokenizer)
    glued = [_glued(row) for row in rows]
    words = [
        [word if place == 0 or joins[place] else before + word
         for place, word in enumerate(row.values["tokens"])]
        for row, joins in zip(rows, glued, strict=True)
    ]  # fmt: skip
    if not words:
        return []
    encoded = tokenizer(words, is_split_into_words=True, add_special_tokens=False, verbose=False)
    spaces = set(tokenizer.convert_tokens_to_ids(list(SPACES))) - {tokenizer.unk_token_id, None}
    unknown = [] if tokenizer.unk_token_id is None else [tokenizer.unk_token_id]
    found = []
    for number, ids in enumerate(encoded["input_ids"]):
        by_word: list[list[int]] = [[] for _ in words[number]]
        for token, word in zip(ids, encoded.word_ids(number), strict=True):
            by_word[word].append(token)
        row = _RowTokens([], {})
        for word, of_word in enumerate(by_word):
            tokens = of_word or unknown
            spaced = len(tokens) > 1 and tokens[0] in spaces
            if tokens:
                row.firsts[word] = len(row.ids) + (spaced and not glued[number][word])
            row.ids.extend(tokens[spaced and glued[number][word] :])
        found.append(row)
    return found


def _glued(row: Row) -> list[bool]:
    """Returns whether each word of a row is written without a space before it."""
    words = row.values["tokens"]
    if spans := row.values.get("spans"):
        return [False, *(one[1] == other[0] for one, other in pairwise(spans))]
    return [False, *(is_glued(one, other) for one, other in pairwise(words))]


def special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Returns the special tokens before and after each text."""
    whole = tokenizer(["a"], is_split_into_words=True)["input_ids"]
    alone = tokenizer(["a"], is_split_into_words=True, add_special_tokens=False)["input_ids"]
    starts = range(len(whole) - len(alone) + 1)
    start = next(place for place in starts if whole[place : place + len(alone)] == alone)
    return whole[:start], whole[start + len(alone) :]


def _before_words(tokenizer: Any) -> str:
    """The text to put before each word so that a list of words gets the same tokens as a sentence.

    Raises:
        DataError: neither an empty string nor a space gives the same tokens.
    """
    text = tokenizer("a b a")["input_ids"]
    for before in ("", " "):
        words = ["a", f"{before}b", f"{before}a"]
        if tokenizer(words, is_split_into_words=True)["input_ids"] == text:
            return before
    raise DataError(
        f"the tokenizer of `{tokenizer.name_or_path}` splits a word differently alone than in a "
        "text",
        "choose another base",
    )


def _windows(row: _RowTokens, room: int, overlap: int) -> dict[int, list[int]]:
    """Returns place where a window starts -> the words that are read in it, in order. A word is
    read in the window with the most context, the number of tokens on its shorter side; if windows
    tie, in the first. Windows in which no word is read are left out.

    Args:
        room: most tokens of a window, without special ones.
    """
    step, length = room - overlap, len(row.ids)
    last = max(0, -(-(length - room) // step)) if length else 0  # number of the last window
    windows: dict[int, list[int]] = {}
    for word, place in sorted(row.firsts.items()):
        numbers = range(max(0, -(-(place - room + 1) // step)), min(last, place // step) + 1)
        starts = [number * step for number in numbers]
        start = max(starts, key=lambda at: min(place - at, min(at + room, length) - 1 - place))
        windows.setdefault(start, []).append(word)
    return windows


def _check_all_read(rows: Sequence[Row], tokens: Sequence[_RowTokens]) -> None:
    """Raises DataError if the tokenizer gives no token for a word."""
    unread = [
        (row.number, text)
        for row, found in zip(rows, tokens, strict=True)
        for word, text in enumerate(row.values["tokens"])
        if word not in found.firsts
    ]
    if unread:
        number, text = unread[0]
        more = f", nor for {plural(len(unread) - 1, 'word')} more" * (len(unread) > 1)
        raise DataError(
            f"row {number}: the tokenizer gives no token for the word {text[:30]!r}{more}",
            "remove such words from the rows, with their labels if they have some",
        )
