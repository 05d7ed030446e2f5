"""The last block of an encoder, for the first token of each document only.

    o_1 = sum over tokens j of softmax_j(scaling q_1 k_j) v_j        for every document

A classifier reads nothing else. Keys and values of the last block are of all tokens; its queries,
attention and whatever comes after are of the first ones.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENDS, ASKS, GOES_ON = "attention.self", "attention.self.query", "attention.output"
"""Modules of a block that is built like BERT's."""


def keep_first_tokens(
    stack: contextlib.ExitStack, block: nn.Module, starts: Tensor, num_tokens: int
) -> None:
    """Until the stack closes, a block goes on with the first token of each document, as
    (documents, 1, d): from its queries on where it is built like BERT's, else at its end.

    Args:
        starts: (documents,) int64, the first tokens' places in the row.
        num_tokens: of the row.
    """
    names = {name for name, _ in block.named_modules()}
    if not {ATTENDS, ASKS, GOES_ON} <= names:
        stack.callback(block.register_forward_hook(_after(starts)).remove)
        return
    attends, asks, goes_on = (block.get_submodule(name) for name in (ATTENDS, ASKS, GOES_ON))

    def of_first(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "only_first": True}

    def pick(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0].index_select(1, starts), *args[1:]

    def put(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return _at(starts, num_tokens, out[0])[None]

    def before(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(arg[0].index_select(0, starts)[:, None] for arg in args)

    for handle in (
        attends.register_forward_pre_hook(of_first, with_kwargs=True),
        asks.register_forward_pre_hook(pick),
        asks.register_forward_hook(put),
        goes_on.register_forward_pre_hook(before),
    ):
        stack.callback(handle.remove)


def attend_from_first(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """What the first token of each document sees of all its tokens. Numbers that are not finite
    spread from a document to its neighbours in the row.

    Args:
        query: (1, heads, tokens, d), of which the first tokens' count; key and value have as many
            heads.
        lengths: of the documents in the row.

    Returns:
        (1, tokens, heads, d), zero for all but the first tokens.
    """
    heads, num_tokens, d = query.shape[1:]
    counts = torch.tensor(lengths, device=query.device)
    starts = counts.cumsum(0) - counts
    document = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), counts)
    # (tokens, documents): a product with it is several times as fast as adding up rows by index
    belongs = F.one_hot(document, len(lengths)).to(query.dtype)
    q, k, v = (t[0].transpose(0, 1).flatten(1) for t in (query, key, value))  # (tokens, heads * d)
    asked = belongs @ q.index_select(0, starts)
    scores = (asked * k).view(num_tokens, heads, d).sum(-1)  # (tokens, heads)
    scores = scores * (d**-0.5 if scaling is None else scaling)
    place = torch.arange(num_tokens, device=query.device) - starts.index_select(0, document)
    padded = scores.new_full((len(lengths), max(lengths), heads), -torch.inf)
    weights = padded.index_put((document, place), scores).softmax(1)
    weights = F.dropout(weights, dropout)[document, place]  # (tokens, heads)
    seen = (weights[..., None] * v.view(num_tokens, heads, -1)).flatten(1)
    out = (belongs.T @ seen).view(len(lengths), heads, -1)
    return _at(starts, num_tokens, out)[None]


def _at(places: Tensor, length: int, rows: Tensor) -> Tensor:
    """Rows at these places of so many, which are zero elsewhere."""
    return rows.new_zeros(length, *rows.shape[1:]).index_copy(0, places, rows)


def _after(starts: Tensor) -> Any:
    def after(_: nn.Module, __: object, out: Any) -> Any:
        if isinstance(out, tuple):
            return (out[0][0].index_select(0, starts)[:, None], *out[1:])
        return out[0].index_select(0, starts)[:, None]

    return after
