"""Encodes texts, or pairs of texts, as token ids, cut to the length that task and base allow."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import DataError

MANY_UNKNOWN = 0.05
MANY_SINGLE = 0.3
"""Shares above which a note is written: `MANY_UNKNOWN` for tokens that are unknown to the
tokenizer, `MANY_SINGLE` for texts that are a single token."""
ENOUGH = 5
"""No note is written if at most this many texts are a single token."""


@dataclass(frozen=True)
class Texts:
    """Encoded texts, with counts of cut texts and of unknown tokens."""

    inputs: dict[str, Ragged]
    """`input_ids`; for pairs also `token_type_ids`, if the base reads them."""
    truncated: int
    """Number of texts that were cut."""
    unknown_tokens: int


def encode_texts(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int
) -> Texts:
    """Encodes texts as token ids, and cuts long ones at the end.

    Args:
        pairs: the second text of each example; None for single texts.
        max_length: most tokens of an example; the base may allow less.
    """
    max_length = min(max_length, tokenizer.model_max_length)
    cut = tokenizer(texts, pairs, verbose=False)
    if truncated := sum(len(row) > max_length for row in cut["input_ids"]):
        cut = tokenizer(texts, pairs, truncation=True, max_length=max_length)
    names = ["input_ids", "token_type_ids"] if pairs else ["input_ids"]
    inputs = {name: Ragged.of(cut[name]) for name in names if name in cut}
    unknown = tokenizer.unk_token_id
    count = 0 if unknown is None else int((inputs["input_ids"].values == unknown).sum())
    return Texts(inputs, truncated, count)


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


def token_notes(parts: Mapping[str, Examples], special: int) -> Iterator[str]:
    """Yields notes on tokens that are unknown to the tokenizer, and on texts with a single token.

    Args:
        parts: split -> its examples.
        special: number of tokens that the tokenizer adds to each text.
    """
    for name, examples in parts.items():
        if examples.unknown_tokens > MANY_UNKNOWN * examples.num_tokens:
            share = examples.unknown_tokens / examples.num_tokens
            yield (
                f"{share:.0%} of the {name} split's tokens are unknown to the tokenizer; choose a "
                "base for this language"
            )
    train = parts["train"]
    single = int((train.input_ids.lengths <= special + 1).sum())
    if single > max(ENOUGH, MANY_SINGLE * len(train)):
        yield f"{single / len(train):.0%} of the training texts are a single token"
