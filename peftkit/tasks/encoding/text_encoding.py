"""Encodes texts, or pairs of texts, as token ids, cut to the length that task and base allow."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError

MANY_SINGLE = 0.3
"""Share of texts with a single token above which a note is written."""
ENOUGH = 5
"""No note is written if at most this many texts are a single token."""


@dataclass(frozen=True)
class EncodedTexts:
    """Encoded texts, with counts of cut texts and of unknown tokens."""

    inputs: dict[str, Ragged]
    """`input_ids`; for pairs also `token_type_ids`, if the base reads them."""
    truncated: int
    """Number of texts that were cut."""
    unknown_tokens: int
    row_of: npt.NDArray[np.int64] | None = None
    """(windows,), index of each window's text; None if no text was split."""


def encode_texts(
    texts: Sequence[str],
    pairs: Sequence[str] | None,
    tokenizer: Any,
    max_length: int,
    overlap: int | None = None,
) -> EncodedTexts:
    """Encodes texts as token ids; cuts long ones at the end, or splits them into windows.

    Args:
        pairs: the second text of each example; None for single texts.
        max_length: most tokens of an example; the base may allow less.
        overlap: tokens that neighbouring windows of a text share, at most half a window; None to
            cut texts at the end.
    """
    max_length = min(max_length, tokenizer.model_max_length)
    encoded, truncated, row_of = tokenizer(texts, pairs, verbose=False), 0, None
    long = sum(len(row) > max_length for row in encoded["input_ids"])
    if long and overlap is None:
        truncated = long
        encoded = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    elif long and overlap is not None:
        encoded = split_into_windows(tokenizer, texts, max_length, overlap)
        row_of = np.array(encoded["overflow_to_sample_mapping"], np.int64)
    names = ["input_ids", "token_type_ids"] if pairs else ["input_ids"]
    inputs = {name: Ragged.of(encoded[name]) for name in names if name in encoded}
    unknown = tokenizer.unk_token_id
    count = 0 if unknown is None else int((inputs["input_ids"].values == unknown).sum())
    return EncodedTexts(inputs, truncated, count, row_of)


def split_into_windows(tokenizer: Any, texts: Sequence[str], max_length: int, overlap: int) -> Any:
    """Tokenizes texts and splits them into overlapping windows, from left to right.

    Args:
        overlap: tokens that neighbouring windows share; at most half a window.
    """
    overlap = min(overlap, (max_length - tokenizer.num_special_tokens_to_add()) // 2)
    side, tokenizer.truncation_side = tokenizer.truncation_side, "right"
    try:
        return tokenizer(
            texts, truncation=True, max_length=max_length, stride=overlap,
            return_overflowing_tokens=True,
        )  # fmt: skip
    finally:
        tokenizer.truncation_side = side


def encode_rows(
    rows: Sequence[Row],
    targets: Array,
    weights: Sequence[float] | None,
    tokenizer: Any,
    prefix: str = "",
    max_length: int = 512,
    overlap: int | None = None,
) -> Examples:
    """Encodes the values `text`, and `text_pair` if there are any, of rows.

    Args:
        targets: (rows, ...); each window gets its row's target.
        weights: (rows,), weight of each row in the loss, which its windows share equally; None if
            all are 1.
        prefix: text to put before each text.
        max_length, overlap: see `encode_texts`.

    Raises:
        DataError: a text has no tokens or ends in the padding token.
    """
    texts = [prefix + row.values["text"] for row in rows]
    paired = any("text_pair" in row.values for row in rows)
    pairs = [prefix + row.values["text_pair"] for row in rows] if paired else None
    encoded = encode_texts(texts, pairs, tokenizer, max_length, overlap)
    row_of = np.arange(len(rows)) if encoded.row_of is None else encoded.row_of
    check_last_tokens([rows[row] for row in row_of], encoded.inputs["input_ids"], tokenizer)
    shares = None if weights is None else np.array(weights, np.float32)[row_of]
    if encoded.row_of is not None:
        ones = np.ones(len(row_of)) if shares is None else shares
        shares = (ones / np.bincount(row_of)[row_of]).astype(np.float32)
    return Examples(
        rows=tuple(rows),
        inputs=encoded.inputs,
        targets=targets[row_of],
        weights=shares,
        row_of=encoded.row_of,
        truncated=encoded.truncated,
        unknown_tokens=encoded.unknown_tokens,
    )


def check_last_tokens(rows: Sequence[Row], ids: Ragged, tokenizer: Any) -> None:
    """Raises DataError if a text has no tokens or ends with the padding token. Classifiers on
    decoders read the last token that is not padding, which would then be the wrong one.
    """
    bad = [
        row.number
        for row, row_ids in zip(rows, ids, strict=True)
        if len(row_ids) == 0 or row_ids[-1] == tokenizer.pad_token_id
    ]
    if bad:
        raise DataError(
            f"row {bad[0]} gives no tokens, or ends in the padding token "
            f"`{tokenizer.pad_token}`, so its last token cannot be found ({len(bad)} such rows)",
            "remove the row, or that token from the end of its text",
        )


def prefix_notes(base: str, prefix: str) -> Iterator[str]:
    """Yields a note if a base was trained on texts with a prefix, and the task adds none.

    Args:
        base: the base's name.
    """
    if re.search(r"\be5\b", base.lower()) and not prefix:
        yield (
            f"`{base}` was trained on texts that begin with `query: ` or `passage: `; set "
            '`task.prefix` to "query: "'
        )


def single_token_notes(train: Examples, special: int) -> Iterator[str]:
    """Yields a note if many training texts are a single token.

    Args:
        special: number of tokens that the tokenizer adds to each text.
    """
    single = int((train.input_ids.lengths <= special + 1).sum())
    if single > max(ENOUGH, MANY_SINGLE * len(train)):
        yield f"{single / len(train):.0%} of the training texts are a single token"
