"""Computes one vector for each text from its hidden states, in padded and in packed batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def text_mask(hidden: Tensor, mask: Tensor | None, num_virtual_tokens: int) -> Tensor:
    """Mask of the hidden states to pool, (rows, width): 1 for tokens of the text, 0 for others."""
    rows, width = hidden.shape[:2]
    if mask is None:
        mask = torch.ones((rows, width), device=hidden.device)
    if mask.dim() != 2 or mask.shape[1] < width:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit {rows} x {width} tokens"
        )
    mask = mask[:, -width:]
    if num_virtual_tokens:
        mask = mask * (mask.cumsum(1) > num_virtual_tokens)
    return mask.to(torch.float32)


def mean(hidden: Tensor, text: Tensor) -> Tensor:
    """Mean hidden state of each text, (rows, d), computed in float32."""
    sums = (hidden.float() * text[..., None]).sum(1)
    return (sums / text.sum(1, keepdim=True)).to(hidden.dtype)


def at_places(hidden: Tensor, read_at: Tensor | None, places: int) -> Tensor:
    """Joins the hidden states at the places of each output, (rows, width, d) -> (outputs, places *
    d).
    """
    if read_at is None:
        return hidden[:, 0].repeat(1, places)
    return hidden.flatten(0, 1).index_select(0, read_at.flatten()).reshape(len(read_at), -1)


def first(hidden: Tensor, text: Tensor) -> Tensor:
    """Hidden state of each text's first token, (rows, d)."""
    at = text.argmax(1)  # argmax returns the first of equal values
    return hidden[torch.arange(len(hidden), device=hidden.device), at]


def mean_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Mean hidden state of each document, (1, tokens, d) -> (documents, d), computed in float32."""
    counts = torch.tensor(lengths, device=hidden.device)
    means = torch.segment_reduce(hidden[0].float(), "mean", lengths=counts, axis=0, unsafe=True)
    return means.to(hidden.dtype)


def first_of_documents(hidden: Tensor, lengths: Sequence[int]) -> Tensor:
    """Hidden state of each document's first token, (1, tokens, d) -> (documents, d). `hidden` is
    (documents, 1, d) if the last block computed first tokens only.
    """
    if hidden.shape[:2] == (len(lengths), 1):
        return hidden[:, 0]
    counts = torch.tensor(lengths, device=hidden.device)
    return hidden[0].index_select(0, counts.cumsum(0) - counts)
