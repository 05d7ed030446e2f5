"""Rows of words as windows of tokens, of which the first token of each word is read once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError

WORD = "word"
"""Column with the number of the word, in its row, that an output is of."""


def windows_of(
    rows: Sequence[Row],
    targets: Sequence[Sequence[int]],
    tokenizer: Any,
    max_length: int,
    overlap: int,
) -> Examples:
    """The windows of all rows.

    Args:
        rows: with `tokens`, lists of words.
        targets: of each word.
        overlap: tokens that two windows of a row have in common, at most half of one.

    Raises:
        DataError: the tokenizer makes nothing of a word, or does not say which word is where.
    """
    _check_fast(tokenizer)
    max_length = min(max_length, tokenizer.model_max_length)
    room = max_length - tokenizer.num_special_tokens_to_add()
    cut = tokenizer(
        [row.values["tokens"] for row in rows],
        is_split_into_words=True,
        truncation=True,
        max_length=max_length,
        stride=min(overlap, room // 2),
        return_overflowing_tokens=True,
    )
    row_of = [int(row) for row in cut["overflow_to_sample_mapping"]]
    ids = Ragged.of(cut["input_ids"])
    firsts = [_first_places(cut.word_ids(window)) for window in range(len(ids))]
    chosen = _most_context(row_of, firsts, ids.lengths.tolist())
    _check_all_read(rows, chosen)
    words: list[list[int]] = [[] for _ in row_of]
    for (_, word), window in sorted(chosen.items()):
        words[window].append(word)
    read = [(row, word) for row, own in zip(row_of, words, strict=True) for word in own]
    places = [[at[word] for word in own] for at, own in zip(firsts, words, strict=True)]
    return Examples(
        rows=tuple(rows),
        inputs={"input_ids": ids},
        targets=np.array([targets[row][word] for row, word in read], np.int64),
        read_at=Ragged.of(places, width=1),
        row_of=np.array(row_of, np.int64),
        columns={WORD: np.array([word for _, word in read], np.int64)},
        unknown_tokens=int((ids.values == tokenizer.unk_token_id).sum()),
    )


def by_row(column: Array, examples: Examples) -> list[Array]:
    """The entries of each row's outputs, in the order of its words."""
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
            f"the tokenizer of `{tokenizer.name_or_path}` does not say which word a token is of",
            "choose a base with a fast tokenizer",
        )


def _first_places(word_ids: Sequence[int | None]) -> dict[int, int]:
    """Word -> the place of its first token in a window."""
    places: dict[int, int] = {}
    for place, word in enumerate(word_ids):
        if word is not None and word not in places:
            places[word] = place
    return places


def _most_context(
    row_of: Sequence[int], firsts: Sequence[dict[int, int]], lengths: Sequence[int]
) -> dict[tuple[int, int], int]:
    """(row, word) -> the window with most tokens on the word's shorter side; the first of equals,
    so that a word of which a window has but the end is read in the window before.
    """
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for window, (row, places) in enumerate(zip(row_of, firsts, strict=True)):
        for word, place in places.items():
            context = min(place, lengths[window] - 1 - place)
            if (row, word) not in chosen or context > chosen[row, word][0]:
                chosen[row, word] = (context, window)
    return {key: window for key, (_, window) in chosen.items()}


def _check_all_read(rows: Sequence[Row], chosen: dict[tuple[int, int], int]) -> None:
    """Raises DataError if the tokenizer makes no token of a word."""
    for number, row in enumerate(rows):
        for word, text in enumerate(row.values["tokens"]):
            if (number, word) not in chosen:
                raise DataError(
                    f"row {row.number}: the tokenizer makes nothing of the word {text[:30]!r}",
                    "take it out of the row, with its label",
                )
