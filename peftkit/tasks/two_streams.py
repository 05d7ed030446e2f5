"""Pairs of texts for an encoder-decoder: what the encoder reads, and what the decoder writes.

The decoder reads its start token and the target without its last token; at each place it predicts
the target's token of that place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Examples
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import BaseModelError


def decoder_ends(base: OpenedBase) -> tuple[int, int]:
    """The tokens that a base's decoder begins and ends with.

    Raises:
        BaseModelError: it is no encoder-decoder, or does not say.
    """
    config = base.config
    if not getattr(config, "is_encoder_decoder", False):
        raise BaseModelError(
            f"`{base.name}` is no encoder-decoder, and this task needs one",
            "choose a base such as T5, mBART or Marian",
        )
    names = ("decoder_start_token_id", "bos_token_id")
    starts = [getattr(config, name, None) for name in names]
    ends = [base.tokenizer.eos_token_id, getattr(config, "eos_token_id", None)]
    start, end = (next((n for n in some if n is not None), None) for some in (starts, ends))
    if start is None or end is None:
        missing = "decoder_start_token_id" if start is None else "eos_token_id"
        raise BaseModelError(f"the configuration of `{base.name}` names no `{missing}`")
    return int(start), int(end)


def encode_pairs(
    rows: Sequence[Row],
    texts: Sequence[str],
    targets: Sequence[str],
    tokenizer: Any,
    max_length: int,
    start: int,
    end: int,
) -> Examples:
    """Both texts of each row as token ids, cut at the end; every target ends with the end token, or
    the model would not learn to stop.

    Args:
        start: the token that the decoder begins with.
    """
    limit = min(max_length, tokenizer.model_max_length)
    read = tokenizer(list(texts), verbose=False)["input_ids"]
    written = tokenizer(text_target=list(targets), verbose=False)["input_ids"]
    cut = sum(len(ids) > limit for column in (read, written) for ids in column)
    if cut:
        options = {"truncation": True, "max_length": limit}
        read = tokenizer(list(texts), **options)["input_ids"]
        written = tokenizer(text_target=list(targets), **options)["input_ids"]
    written = [ids if ids[-1:] == [end] else [*ids[: limit - 1], end] for ids in written]
    unknown = tokenizer.unk_token_id
    inputs = {
        "input_ids": Ragged.of(read),
        "decoder_input_ids": Ragged.of([start, *ids[:-1]] for ids in written),
    }
    tokens = np.concatenate([np.array(ids, np.int64) for ids in written])
    return Examples(
        rows=tuple(rows),
        inputs=inputs,
        targets=tokens,
        read_at=Ragged.of([np.arange(len(ids)) for ids in written], width=1),
        truncated=cut,
        unknown_tokens=0
        if unknown is None
        else int((inputs["input_ids"].values == unknown).sum() + (tokens == unknown).sum()),
    )
