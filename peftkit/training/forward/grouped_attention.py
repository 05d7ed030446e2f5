"""Attention within documents, by groups of documents, for devices where kernel calls are costly."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftkit.training.forward.batching import cheapest_cuts

MOST_PADDED = 2**16
"""Maximum number of tokens in a group, padding included."""


def attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, groups: Groups, *options: Any
) -> Tensor:
    """Computes the attention within documents, a group of documents at once.

    On a CPU, groups save no time: the kernel takes as long as for single documents.

    Returns:
        The output of attention, (1, tokens, heads, d).
    """
    places, back = groups.places, groups.back
    gathered = [rearrange(t[0].transpose(0, 1), places, back, None) for t in (query, key, value)]
    outs, start = [], 0
    for count, longest, keys in groups.shapes:
        part = slice(start, start := start + count * longest)
        # (documents, heads, tokens, d)
        q, k, v = (t[part].view(count, longest, *t.shape[1:]).transpose(1, 2) for t in gathered)
        causal = options[0]  # if so, no token sees padding, which is last
        out = attend(q, k, v, None if causal else keys, *options)
        outs.append(out.transpose(1, 2).flatten(0, 1))
    return rearrange(torch.cat(outs), back, places, groups.padding)[None]


def rearrange(rows: Tensor, there: Tensor, back: Tensor, padding: Tensor | None) -> Tensor:
    """Selects rows of a tensor (tokens, heads, d) by index.

    The backward pass selects gradients by the inverse index instead of adding them up row by row.
    If a row is selected twice, its second copy is padding and has no gradient.

    Args:
        there: index of the old row for each new row.
        back: index of the new row for each old row.
        padding: indices of old rows that are padding; None if there are none.
    """
    moved: Tensor = _Rearrange.apply(rows, there, back, padding)  # type: ignore[no-untyped-call]
    return moved


class _Rearrange(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, rows: Tensor, there: Tensor, back: Tensor, padding: Tensor | None
    ) -> Tensor:
        ctx.back, ctx.padding = back, padding
        return rows.index_select(0, there)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        of_rows = gradients[0].index_select(0, ctx.back)
        if ctx.padding is not None:
            of_rows.index_fill_(0, ctx.padding, 0.0)
        return of_rows, None, None, None


@dataclass(frozen=True)
class Groups:
    """Groups of a row's documents. The attention of a group is computed at once; its documents are
    padded to the longest of them.
    """

    places: Tensor
    """(padded tokens,) int64: for each token of the groups, its place in the row. Padding repeats
    the document's last token and is seen by no other token."""
    back: Tensor
    """(tokens,) int64: for each token of the row, its place in the groups."""
    padding: Tensor
    """(padding,) int64, places of padding in the groups."""
    shapes: tuple[tuple[int, int, Tensor | None], ...]
    """For each group: number of documents, number of tokens of the longest document, and the mask
    (documents, tokens) bool, False at padding. The mask is None if there is no padding."""


@functools.lru_cache(maxsize=64)
def group_documents(lengths: tuple[int, ...], device: torch.device, call: int) -> Groups:
    """Groups documents of similar lengths so that the cost of padding and kernel calls is least.

    Args:
        call: cost of a kernel call, in tokens.
    """
    starts = np.cumsum([0, *lengths])
    order = sorted(range(len(lengths)), key=lambda document: lengths[document])
    cuts = cheapest_cuts([[lengths[document]] for document in order], MOST_PADDED, call)
    places, shapes = [], []
    for first, end in cuts:
        documents = order[first:end]
        sizes = np.array([lengths[document] for document in documents])
        columns = np.arange(longest := int(sizes[-1]))
        place = np.minimum(columns, sizes[:, None] - 1) + starts[documents][:, None]
        places.append(place.ravel())
        real = columns < sizes[:, None]
        keys = None if real.all() else torch.from_numpy(real).to(device)
        shapes.append((len(documents), longest, keys))
    flat = np.concatenate(places)
    back = np.zeros(starts[-1], np.int64)
    back[flat[::-1]] = np.arange(len(flat))[::-1]  # the first of equal places wins, not padding
    padding = np.setdiff1d(np.arange(len(flat)), back)
    on_device = [torch.from_numpy(index).to(device) for index in (flat, back, padding)]
    return Groups(on_device[0], on_device[1], on_device[2], tuple(shapes))


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keys: Tensor | None,
    causal: bool,
    scaling: float | None,
    dropout: float,
    window: int | None,
    softcap: float | None,
) -> Tensor:
    """Computes the attention within documents of equal length, (documents, heads, tokens, d).

    Args:
        keys: mask (documents, tokens) bool, False at padding; None if there is no padding.
    """
    length, grouped = query.shape[2], key.shape[1] != query.shape[1]
    mask = None if keys is None else keys[:, None, None]
    if (window is not None and length > window) or softcap is not None:
        place = torch.arange(length, device=query.device)
        distance = place[:, None] - place  # from a query back to a key
        seen = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
        if window is not None:
            seen &= distance.abs() < window
        # a query at padding sees itself, since softmax over nothing is NaN
        mask = seen if mask is None else seen & mask | (distance == 0)
    if grouped and (mask is not None or softcap is not None):  # kernels do not take both
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
        grouped = False
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling,
            is_causal=causal and mask is None and length > 1, enable_gqa=grouped,
        )  # fmt: skip
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    assert mask is not None
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return F.dropout(weights.to(query.dtype), dropout) @ value
