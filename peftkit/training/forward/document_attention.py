"""Attention inside each of several documents that lie behind one another in one row.

    out_i = softmax(q_i k_i^T * scaling) v_i        for every document i

Registered with transformers under a name of its own, for which transformers makes no mask: a block
mask of all tokens against all costs 3 to 4 times as much at 4,000 tokens, and where a model makes
one it is wrong for some (docs/log.md, 2026-11-24).
"""

from __future__ import annotations

import contextlib
import functools
import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers import AttentionInterface

from peftkit.training.forward import short_attention
from peftkit.training.forward.batching import cheapest_cuts
from peftkit.training.forward.first_tokens import attend_from_first
from peftkit.training.forward.short_attention import attend_to_short_documents

NAME = "peftkit_packed"
ACCELERATOR_CALL = 2048
"""What a call of the attention kernel costs there, in tokens; an estimate, not measured yet."""
MOST_PADDED = 2**16
"""Tokens of a group, padding included."""
HARMLESS = {
    "cache_position", "output_attentions", "output_hidden_states", "output_router_logits",
    "position_embeddings", "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""What models tell an attention function that changes nothing here."""


class CannotPack(Exception):  # nothing that a user meets
    """The model asks of attention what is not computed here."""


def attention_configs(model: nn.Module) -> list[Any]:
    """The configurations by which a model's modules choose their attention."""
    found = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [config for config in found.values() if hasattr(config, "_attn_implementation")]


@contextlib.contextmanager
def packed_attention(configs: Sequence[Any]) -> Iterator[None]:
    """Inside, models with these configurations attend within documents, of which they must be told
    the `document_lengths`.

    Only the choice in the configuration is changed, as a user of the model could, and put back.
    """
    AttentionInterface.register(NAME, attend_within_documents)
    before = [config._attn_implementation for config in configs]
    try:
        for config in configs:
            config._attn_implementation = NAME
        yield
    finally:
        for config, name in zip(configs, before, strict=True):
            config._attn_implementation = name


def attend_within_documents(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    document_lengths: tuple[int, ...] | None = None,
    shared_tokens: int = 0,
    only_first: bool = False,
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions, for one row.

    Args:
        query: (1, heads, tokens, d); key and value may have fewer heads.
        sliding_window: tokens that a token sees, itself among them.
        softcap: scores are `softcap * tanh(score / softcap)` (Gemma 2).
        document_lengths: of the documents in the row.
        shared_tokens: that all documents begin with; the row has them once, at its start.
        only_first: of the documents' other tokens nothing is read.

    Returns:
        (1, tokens, heads, d), and no weights.

    Raises:
        CannotPack: something is asked that is not computed here.
    """
    unknown = [
        k for k, v in others.items() if v is not None and v is not False and k not in HARMLESS
    ]
    if unknown or attention_mask is not None or document_lengths is None:
        raise CannotPack(f"{type(module).__name__} asks for {unknown or 'a mask of its own'}")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options = (causal, scaling, dropout, sliding_window, softcap)
    if shared_tokens:
        if not causal:
            raise CannotPack(f"{type(module).__name__} lets what is shared see what is not")
        query, key, value = (
            in_each(tensor, document_lengths, shared_tokens) for tensor in (query, key, value)
        )
    if only_first and not (causal or sliding_window or softcap):
        return attend_from_first(query, key, value, document_lengths, scaling, dropout), None
    if query.device.type == "cpu":  # where a call costs little
        found = attend_in_turn(query, key, value, document_lengths, *options)
    else:
        groups = group_documents(document_lengths, query.device, ACCELERATOR_CALL)
        found = attend_in_groups(query, key, value, groups, *options)
    return in_first(found, document_lengths, shared_tokens) if shared_tokens else found, None


def in_each(row: Tensor, lengths: tuple[int, ...], shared: int) -> Tensor:
    """A row whose first tokens all documents begin with -> one in which each document has them.

    Args:
        row: (1, heads, tokens, d).
    """
    first, *rests = torch.split(row, [lengths[0], *(n - shared for n in lengths[1:])], 2)
    beginning = first[:, :, :shared]
    return torch.cat([first, *itertools.chain(*((beginning, rest) for rest in rests))], 2)


def in_first(row: Tensor, lengths: tuple[int, ...], shared: int) -> Tensor:
    """The way back: (1, tokens, heads, d), in which only the first document has what is shared."""
    sizes = [size for length in lengths[1:] for size in (shared, length - shared)]
    first, *parts = torch.split(row, [lengths[0], *sizes], 1)
    return torch.cat([first, *parts[1::2]], 1)


def attend_in_turn(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], *options: Any
) -> Tensor:
    """Attention within one document after another; neighbours of one length go together, and short
    ones.

    Returns:
        (1, tokens, heads, d).
    """
    causal, scaling, dropout, window, softcap = options
    seen_whole = softcap is None and (window is None or window >= short_attention.LONGEST)
    short = short_attention.LONGEST if seen_whole and short_attention.is_for(query) else 0
    runs = [tuple(run) for _, run in itertools.groupby(lengths, lambda length: max(length, short))]
    # split along the tokens of (1, tokens, heads, d), so that gradients come back in that order
    rows = [[t.transpose(1, 2)] for t in (query, key, value)]
    if len(runs) > 1:
        rows = [list(torch.split(t, [*map(sum, runs)], 1)) for (t,) in rows]
    found = []
    for run, *parts in zip(runs, *rows, strict=True):
        if run[0] <= short:
            q, k, v = (part.squeeze(0) for part in parts)
            out = attend_to_short_documents(q, k, v, run, causal, scaling, dropout)
        else:
            q, k, v = (t.view(len(run), run[0], *t.shape[2:]).transpose(1, 2) for t in parts)
            out = _attend(q, k, v, None, *options).transpose(1, 2)
            out = out.reshape(sum(run), *out.shape[2:])
        found.append(out)
    return (found[0] if len(found) == 1 else torch.cat(found))[None]


def attend_in_groups(
    query: Tensor, key: Tensor, value: Tensor, groups: Groups, *options: Any
) -> Tensor:
    """Attention within documents, a group of them at once: for devices where each call has a price.

    On a CPU the kernel takes as long for a group as for its documents one by one.

    Returns:
        (1, tokens, heads, d).
    """
    places, back = groups.places, groups.back
    gathered = [rearranged(t[0].transpose(0, 1), places, back, None) for t in (query, key, value)]
    found, start = [], 0
    for count, longest, keys in groups.shapes:
        part = slice(start, start := start + count * longest)
        # (documents, heads, tokens, d)
        q, k, v = (t[part].view(count, longest, *t.shape[1:]).transpose(1, 2) for t in gathered)
        causal = options[0]  # what a token sees then comes before any padding
        out = _attend(q, k, v, None if causal else keys, *options)
        found.append(out.transpose(1, 2).flatten(0, 1))
    return rearranged(torch.cat(found), back, places, groups.padding)[None]


def rearranged(rows: Tensor, there: Tensor, back: Tensor, padding: Tensor | None) -> Tensor:
    """Rows of (tokens, heads, d) at other places.

    Gradients go back by another index instead of being added up row by row: a row that was taken
    twice is padding the second time, and has none.

    Args:
        there: which row each new one is.
        back: which new row each one became.
        padding: old rows that are padding, if there are some.
    """
    found: Tensor = _Rearranged.apply(rows, there, back, padding)  # type: ignore[no-untyped-call]
    return found


class _Rearranged(torch.autograd.Function):
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
    """Documents of one row that attend at once, each group padded to its longest document."""

    places: Tensor
    """(padded tokens,) int64, where in the row each token of the groups comes from; padding is the
    document's last token, and no other token sees it."""
    back: Tensor
    """(tokens,) int64, where each token of the row is in the groups."""
    padding: Tensor
    """(padding,) int64, where in the groups there is padding."""
    shapes: tuple[tuple[int, int, Tensor | None], ...]
    """Of each group: documents, tokens of the longest, and (documents, tokens) bool, False where
    there is padding, or None without."""


@functools.lru_cache(maxsize=64)
def group_documents(lengths: tuple[int, ...], device: torch.device, call: int) -> Groups:
    """Groups of documents about equally long, by which padding and calls cost least together.

    Args:
        call: what a call costs, in tokens.
    """
    starts = np.cumsum([0, *lengths])
    order = sorted(range(len(lengths)), key=lambda document: lengths[document])
    cuts = cheapest_cuts([lengths[document] for document in order], MOST_PADDED, call)
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
    back[flat[::-1]] = np.arange(len(flat))[::-1]  # of equals, the first: padding comes after it
    padding = np.setdiff1d(np.arange(len(flat)), back)
    on_device = [torch.from_numpy(index).to(device) for index in (flat, back, padding)]
    return Groups(on_device[0], on_device[1], on_device[2], tuple(shapes))


def _attend(
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
    """Attention within documents of one length, (documents, heads, tokens, d).

    Args:
        keys: (documents, tokens) bool, False where there is padding; None without.
    """
    length, grouped = query.shape[2], key.shape[1] != query.shape[1]
    mask = None if keys is None else keys[:, None, None]
    if (window is not None and length > window) or softcap is not None:
        place = torch.arange(length, device=query.device)
        distance = place[:, None] - place  # how far back a key is
        seen = (distance >= 0) if causal else torch.ones_like(distance, dtype=torch.bool)
        if window is not None:
            seen &= distance.abs() < window
        # a padded query sees itself, or there would be nothing that it sees
        mask = seen if mask is None else seen & mask | (distance == 0)
    if grouped and (mask is not None or softcap is not None):  # kernels want one or the other
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
