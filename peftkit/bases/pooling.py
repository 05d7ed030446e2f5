"""Computes one vector for each text from its hidden states, in padded and in packed batches."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def mean(
    hidden: Tensor, mask: Tensor | None, virtual: int, lengths: Sequence[int] | None
) -> Tensor:
    """Mean hidden state of each text, (texts, d), computed in float32.

    Args:
        hidden: (rows, width, d), or (1, tokens, d) in a packed row.
        mask: see `_text`.
        virtual: number of virtual tokens at the start of each row.
        lengths: number of tokens in each text of a packed row; None if each text is a row.
    """
    if lengths is not None:
        counts = torch.tensor(lengths, device=hidden.device)
        states = hidden[0].float()
        means = torch.segment_reduce(states, "mean", lengths=counts, axis=0, unsafe=True)
        return means.to(hidden.dtype)
    text = _text(hidden, mask, virtual)
    sums = (hidden.float() * text[..., None]).sum(1)
    return (sums / text.sum(1, keepdim=True)).to(hidden.dtype)


def first(
    hidden: Tensor, mask: Tensor | None, virtual: int, lengths: Sequence[int] | None
) -> Tensor:
    """Hidden state of each text's first token, (texts, d).

    Args:
        hidden: as in `mean`; (texts, 1, d) if the last block computed first tokens only.
    """
    if lengths is None:
        at = _text(hidden, mask, virtual).argmax(1)  # argmax returns the first of equal values
        return hidden[torch.arange(len(hidden), device=hidden.device), at]
    if hidden.shape[:2] == (len(lengths), 1):
        return hidden[:, 0]
    counts = torch.tensor(lengths, device=hidden.device)
    return hidden[0].index_select(0, counts.cumsum(0) - counts)


def at_places(hidden: Tensor, read_at: Tensor | None, places: int) -> Tensor:
    """Joins the hidden states at the places of each output, (rows, width, d) -> (outputs, places *
    d). Without `read_at`, each row's first token is read at all places.
    """
    return hidden[:, 0].repeat(1, places) if read_at is None else joined_at(hidden, read_at)


def joined_at(rows: Tensor, at: Tensor) -> Tensor:
    """Selects from `rows`, (rows, width, d), vectors at places `at`, (outputs, k) or (outputs,);
    returns them as (outputs, k * d). Places are counted over all rows one after another.
    """
    states = rows.flatten(0, 1).index_select(0, at.flatten())
    return states if at.dim() == 1 or at.shape[1] == 1 else states.reshape(len(at), -1)


def _text(hidden: Tensor, mask: Tensor | None, virtual: int) -> Tensor:
    """Mask of the hidden states to pool, (rows, width): 1 for tokens of the text, 0 for others.

    Args:
        mask: (rows, width), or wider with the keys and values of a prefix before it; None if all
            are tokens.
    """
    rows, width = hidden.shape[:2]
    if mask is None:
        mask = torch.ones((rows, width), device=hidden.device)
    if mask.dim() != 2 or mask.shape[1] < width:
        raise ValueError(
            f"a mask of shape {tuple(mask.shape)} does not fit {rows} x {width} tokens"
        )
    mask = mask[:, -width:]
    if virtual:
        mask = mask * (mask.cumsum(1) > virtual)
    return mask.to(torch.float32)
