"""Encodes rows of words as windows of tokens; each word's label is read at its first token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError
from peftkit.tasks.encoding.text_encoding import split_into_windows
from peftkit.wording import plural

WORD = "word"
"""Column of the examples: for each output, the index of its word in the row."""


def encode_windows(
    rows: Sequence[Row],
    targets: Sequence[Sequence[int]],
    tokenizer: Any,
    max_length: int,
    overlap: int,
) -> Examples:
    """Encodes all rows as windows.

    Args:
        rows: each has a list of words as its value `tokens`.
        targets: for each row, the target of each word.
        overlap: tokens that neighbouring windows of a row share, at most half a window.

    Raises:
        DataError: the tokenizer gives no token for a word, or does not map tokens to words.
    """
    _check_fast(tokenizer)
    max_length = min(max_length, tokenizer.model_max_length)
    overlap = min(overlap, (max_length - tokenizer.num_special_tokens_to_add()) // 2)
    cut = _cut([row.values["tokens"] for row in rows], tokenizer, max_length, overlap)
    row_of = [int(row) for row in cut["overflow_to_sample_mapping"]]
    firsts = _first_places(row_of, list(map(cut.word_ids, range(len(row_of)))), overlap)
    chosen = _most_context(row_of, firsts, list(map(len, cut["input_ids"])))
    _check_all_read(rows, chosen)
    words: list[list[int]] = [[] for _ in row_of]
    for (_, word), window in sorted(chosen.items()):
        words[window].append(word)
    read_in = [window for window, inside in enumerate(words) if inside]  # others have no outputs
    read = [(row_of[window], word) for window in read_in for word in words[window]]
    ids = Ragged.of(cut["input_ids"][window] for window in read_in)
    return Examples(
        rows=tuple(rows),
        inputs={"input_ids": ids},
        targets=np.array([targets[row][word] for row, word in read], np.int64),
        read_at=Ragged.of(
            ([firsts[window][word] for word in words[window]] for window in read_in), width=1
        ),
        row_of=np.array([row_of[window] for window in read_in], np.int64),
        columns={WORD: np.array([word for _, word in read], np.int64)},
        unknown_tokens=int((ids.values == tokenizer.unk_token_id).sum()),
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


def _cut(rows: Sequence[list[str]], tokenizer: Any, max_length: int, overlap: int) -> Any:
    """Tokenizes all rows and splits them into windows."""
    before = _before_words(tokenizer)
    words = [[first, *(before + word for word in others)] for first, *others in rows]
    return split_into_windows(tokenizer, words, max_length, overlap, words=True)


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


def _first_places(
    row_of: Sequence[int], word_ids: Sequence[Sequence[int | None]], overlap: int
) -> list[dict[int, int]]:
    """For each window, a mapping: index of a word -> place of its first token in the window. Omits
    words whose first token is outside the window.

    Args:
        row_of: the row of each window.
        word_ids: for each window, the index of each token's word; None for special tokens.
        overlap: tokens that neighbouring windows share.
    """
    firsts: list[dict[int, int]] = []
    starts: dict[int, int] = {}  # word -> place of its first token in the row
    begins = 0  # place in the row where the window starts
    for window, (row, words) in enumerate(zip(row_of, word_ids, strict=True)):
        if window == 0 or row != row_of[window - 1]:
            starts, begins = {}, 0
        inside = [place for place, word in enumerate(words) if word is not None]
        places: dict[int, int] = {}
        for number, place in enumerate(inside):
            word = words[place]
            assert word is not None
            if starts.setdefault(word, begins + number) == begins + number:
                places[word] = place
        firsts.append(places)
        begins += len(inside) - overlap
    return firsts


def _most_context(
    row_of: Sequence[int], firsts: Sequence[dict[int, int]], lengths: Sequence[int]
) -> dict[tuple[int, int], int]:
    """Maps (row, word) to the window with the most context; if windows tie, to the first. Context
    is the number of tokens on the word's shorter side.
    """
    chosen: dict[tuple[int, int], tuple[int, int]] = {}
    for window, (row, places) in enumerate(zip(row_of, firsts, strict=True)):
        for word, place in places.items():
            context = min(place, lengths[window] - 1 - place)
            if (row, word) not in chosen or context > chosen[row, word][0]:
                chosen[row, word] = (context, window)
    return {key: window for key, (_, window) in chosen.items()}


def _check_all_read(rows: Sequence[Row], chosen: dict[tuple[int, int], int]) -> None:
    """Raises DataError if the tokenizer gives no token for a word."""
    unread = [
        (row.number, text)
        for place, row in enumerate(rows)
        for word, text in enumerate(row.values["tokens"])
        if (place, word) not in chosen
    ]
    if unread:
        number, text = unread[0]
        more = f", nor for {plural(len(unread) - 1, 'word')} more" * (len(unread) > 1)
        raise DataError(
            f"row {number}: the tokenizer gives no token for the word {text[:30]!r}{more}",
            "remove such words from the rows, with their labels if they have some",
        )
