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
"""A note is written only if more than `MANY_UNKNOWN` of the tokens are unknown, or more than
`MANY_SINGLE` of the texts are a single token."""
ENOUGH = 5
"""A note is written only if more than this number of texts are a single token."""


@dataclass(frozen=True)
class Texts:
    """Encoded texts."""

    inputs: dict[str, Ragged]
    """`input_ids`; for pairs also `token_type_ids`, if the base reads them."""
    truncated: int
    """Number of texts that were cut."""
    unknown_tokens: int


def encode_texts(
    texts: Sequence[str], pairs: Sequence[str] | None, tokenizer: Any, max_length: int
) -> Texts:
    """Encodes texts as token ids, cut at the end.

    Args:
        pairs: second texts.
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
    """Raises DataError if a text is empty or its last token is the padding token: classifiers on
    decoders could not find the last token by its id.
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
        parts: the splits by name.
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
