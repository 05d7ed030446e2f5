"""Generates text for several prompts at once, with the same results as for each prompt alone."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from itertools import groupby
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from peftkit.data.head import Head
from peftkit.methods.virtual_tokens import window

Tokens = npt.NDArray[np.int64]


def write(
    model: nn.Module,
    prompts: Sequence[Tokens],
    head: Head,
    tokenizer: Any,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> list[str]:
    """Returns the text that the model generates after each prompt, with the head's `generation`
    settings.

    Args:
        progress: called with the number of prompts answered since the last call.
        settings: further options of transformers' `generate`, such as a streamer.
    """
    options = {**head.generation, **settings}
    answers = generate(model, prompts, tokenizer.pad_token_id, progress=progress, **options)
    ends = options["eos_token_id"]
    written = [ids[:-1] if len(ids) and ids[-1] in ends else ids for ids in answers]
    return [tokenizer.decode(ids, skip_special_tokens=True).strip() for ids in written]


def generate(
    model: nn.Module,
    prompts: Sequence[Tokens],
    pad_token_id: int,
    max_new_tokens: int,
    batch_size: int = 16,
    progress: Callable[[int], None] | None = None,
    **settings: Any,
) -> list[Tokens]:
    """Returns the new tokens for each prompt, in the order of the prompts and without padding.

    Args:
        prompts: token ids of each prompt; for an encoder-decoder, the encoder's input.
        batch_size: maximum number of prompts that are answered together.
        progress: called with the number of prompts answered since the last call.
        settings: further options of transformers' `generate`, except options that give several
            answers per prompt. Decoding is greedy by default.
    """
    device = next(model.parameters()).device
    answers: dict[int, Tokens] = {}
    model.eval()
    for indices in _batches(model, prompts, batch_size):
        inputs = pad_prompts(model, [prompts[index] for index in indices], pad_token_id)
        with torch.inference_mode(), warnings.catch_warnings():
            # PEFT drops the position ids, and `virtual_tokens` recomputes them
            warnings.filterwarnings("ignore", "Position ids are not supported")
            tokens = model.generate(  # type: ignore[operator]
                **{name: tensor.to(device) for name, tensor in inputs.items()},
                max_new_tokens=max_new_tokens,
                pad_token_id=pad_token_id,
                **{"do_sample": False, **settings},
            )
        start = 1 if _is_encoder_decoder(model) else inputs["input_ids"].shape[1]
        for index, row in zip(indices, tokens[:, start:].cpu().numpy(), strict=True):
            answers[index] = _cut_at_end(row, settings.get("eos_token_id", _eos(model)))
        if progress:
            progress(len(indices))
    return [answers[index] for index in range(len(prompts))]


def pad_prompts(
    model: nn.Module, prompts: Sequence[Tokens], pad_token_id: int
) -> dict[str, torch.Tensor]:
    """Returns `input_ids` and `attention_mask`, (rows, width). They are padded on the left for a
    decoder, so that rows end with the prompt, and on the right for an encoder.
    """
    side = "right" if _is_encoder_decoder(model) else "left"
    rows = [torch.from_numpy(np.asarray(prompt, np.int64)) for prompt in prompts]

    def padded(tensors: list[torch.Tensor], value: int) -> torch.Tensor:
        return nn.utils.rnn.pad_sequence(tensors, True, value, padding_side=side)

    return {
        "input_ids": padded(rows, pad_token_id),
        "attention_mask": padded([torch.ones_like(row) for row in rows], 0),
    }


def _batches(model: Any, prompts: Sequence[Tokens], batch_size: int) -> list[list[int]]:
    """Groups the indices of prompts with similar lengths. If the model has a sliding window and
    virtual tokens, a group's prompts are equally long, since padding would stand between virtual
    tokens and prompt and fill part of the window.
    """
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    groups = [order]
    virtual = getattr(getattr(model, "active_peft_config", None), "is_prompt_learning", False)
    if virtual and window(model.config) is not None:
        groups = [list(group) for _, group in groupby(order, key=lambda i: len(prompts[i]))]
    return [
        group[start : start + batch_size]
        for group in groups
        for start in range(0, len(group), batch_size)
    ]


def _is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def _eos(model: Any) -> Any:
    return model.generation_config.eos_token_id


def _cut_at_end(row: Tokens, eos: Any) -> Tokens:
    """Returns the tokens up to and including the first end token; all if there is no end token."""
    ends = np.flatnonzero(np.isin(row, [] if eos is None else eos))
    return row[: ends[0] + 1] if len(ends) else row
