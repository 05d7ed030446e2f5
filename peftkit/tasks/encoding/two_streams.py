"""Encodes pairs of texts for an encoder-decoder: the encoder's text and the decoder's target.

The decoder reads its start token and then the target without its last token. At place i it predicts
the target's token i.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Examples, Prompt
from peftkit.data.ragged import Ragged
from peftkit.data.rows import Row
from peftkit.errors import BaseModelError


def decoder_ends(base: OpenedBase) -> tuple[int, list[int]]:
    """Returns the decoder's start token, and its end tokens as a list. Targets end with the first
    end token.

    Raises:
        BaseModelError: its configuration names no start or end token, or it needs language codes.
    """
    config = base.config
    if getattr(base.tokenizer, "src_lang", None) is not None:
        raise BaseModelError(
            f"`{base.name}` needs language codes, which peftkit does not set yet",
            "choose a base such as T5 or Marian",
        )
    generation = generation_settings(base)

    def known(name: str) -> list[int]:
        values = [getattr(settings, name, None) for settings in (config, generation)]
        return [n for value in values for n in (value if isinstance(value, list) else [value])
                if n is not None]  # fmt: skip

    starts = known("decoder_start_token_id") or known("bos_token_id")
    ends = [base.tokenizer.eos_token_id] if base.tokenizer.eos_token_id is not None else []
    ends = list(dict.fromkeys(ends + known("eos_token_id")))
    if not starts or not ends:
        missing = "decoder_start_token_id" if not starts else "eos_token_id"
        raise BaseModelError(
            f"neither config.json nor generation_config.json of `{base.name}` names `{missing}`",
            "write it into one of them, or choose another base",
        )
    return int(starts[0]), ends


def generation_settings(base: OpenedBase) -> Any:
    """Reads a base's generation_config.json as transformers' `GenerationConfig`; if the file is
    missing, returns an empty one.
    """
    from transformers import GenerationConfig

    if (base.folder / "generation_config.json").is_file():
        return GenerationConfig.from_pretrained(str(base.folder))
    return GenerationConfig()  # type: ignore[no-untyped-call]


def encode_pairs(
    rows: Sequence[Row],
    texts: Sequence[str],
    targets: Sequence[str],
    tokenizer: Any,
    lengths: tuple[int, int],
    start: int,
    end: int,
) -> Examples:
    """Encodes both texts of each row and cuts them at the end. Every target ends with the end
    token, so that the model learns to stop.

    Args:
        lengths: most tokens of a text, and of a target; the base may allow less.
        start: the token that the decoder begins with.
        end: the token that ends a target.
    """
    limit, target_limit = (min(length, tokenizer.model_max_length) for length in lengths)
    read = tokenizer(list(texts), verbose=False)["input_ids"]
    written = tokenizer(text_target=list(targets), verbose=False)["input_ids"]
    cut_read, cut_written = (
        sum(len(ids) > most for ids in column)
        for column, most in ((read, limit), (written, target_limit))
    )
    if cut_read:
        read = tokenizer(list(texts), truncation=True, max_length=limit)["input_ids"]
    if cut_written:
        written = tokenizer(text_target=list(targets), truncation=True, max_length=target_limit)
        written = written["input_ids"]
    written = [ids if ids[-1:] == [end] else [*ids[: target_limit - 1], end] for ids in written]
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
        truncated=cut_read + cut_written,
        unknown_tokens=0
        if unknown is None
        else int((inputs["input_ids"].values == unknown).sum() + (tokens == unknown).sum()),
    )


def stream_prompts(examples: Examples, count: int, name: str) -> tuple[Prompt, ...]:
    """Prompts of the first `count` rows of a split.

    Args:
        name: the value of a row that reports show as the prompt.
    """
    rows = zip(examples.rows[:count], examples.input_ids, strict=False)
    return tuple(
        Prompt(row.number, row.values[name], expected, ids, tuple(others))
        for row, ids in rows
        for expected, *others in [row.values["targets"]]
    )
