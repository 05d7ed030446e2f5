"""Runs the last block of an encoder only for the first token of each document.

    o_1 = sum over tokens j of softmax_j(scaling q_1 k_j) v_j        for every document

A classifier reads only first tokens. The last block computes keys and values for all tokens, but
queries, attention and all later layers only for first tokens.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

ATTENTION, QUERY, OUTPUT = "attention.self", "attention.self.query", "attention.output"
"""Names of modules in a block that is built like BERT's."""


def keep_first_tokens(
    stack: contextlib.ExitStack, block: nn.Module, starts: Tensor, num_tokens: int
) -> None:
    """Makes a block output only the first token of each document, (documents, 1, d), until `stack`
    is exited. In a block built like BERT's, other tokens are dropped before the queries are
    computed; in any other block, from the block's output.

    Args:
        starts: (documents,) int64, place of each document's first token in the row.
        num_tokens: number of tokens in the row.
    """
    names = {name for name, _ in block.named_modules()}
    if not {ATTENTION, QUERY, OUTPUT} <= names:
        stack.callback(block.register_forward_hook(_select_from_output(starts)).remove)
        return
    attention, query, output = (block.get_submodule(name) for name in (ATTENTION, QUERY, OUTPUT))

    def set_only_first(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return args, {**kwargs, "only_first": True}

    def select(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return args[0].index_select(1, starts), *args[1:]

    def put_back(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return _scatter(starts, num_tokens, out[0])[None]

    def select_all(_: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return tuple(arg[0].index_select(0, starts)[:, None] for arg in args)

    for handle in (
        attention.register_forward_pre_hook(set_only_first, with_kwargs=True),
        query.register_forward_pre_hook(select),
        query.register_forward_hook(put_back),
        output.register_forward_pre_hook(select_all),
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
    """Computes the attention of each document's first token to all tokens of the document. NaN or
    infinity in one document spreads to all documents of the row.

    Args:
        query: (1, heads, tokens, d), used only at first tokens; key and value have as many heads.
        lengths: number of tokens of each document in the row.

    Returns:
        The output of attention, (1, tokens, heads, d), zero except at first tokens.
    """
    heads, num_tokens, d = query.shape[1:]
    counts = torch.tensor(lengths, device=query.device)
    starts = counts.cumsum(0) - counts
    document = torch.repeat_interleave(torch.arange(len(lengths), device=query.device), counts)
    # (tokens, documents); multiplying by it is several times as fast as adding rows by index
    belongs = F.one_hot(document, len(lengths)).to(query.dtype)
    q, k, v = (t[0].transpose(0, 1).flatten(1) for t in (query, key, value))  # (tokens, heads * d)
    first = belongs @ q.index_select(0, starts)
    scores = (first * k).view(num_tokens, heads, d).sum(-1)  # (tokens, heads)
    scores = scores * (d**-0.5 if scaling is None else scaling)
    place = torch.arange(num_tokens, device=query.device) - starts.index_select(0, document)
    padded = scores.new_full((len(lengths), max(lengths), heads), -torch.inf)
    weights = padded.index_put((document, place), scores).softmax(1)
    weights = F.dropout(weights, dropout)[document, place]  # (tokens, heads)
    weighted = (weights[..., None] * v.view(num_tokens, heads, -1)).flatten(1)
    out = (belongs.T @ weighted).view(len(lengths), heads, -1)
    return _scatter(starts, num_tokens, out)[None]


def _scatter(places: Tensor, length: int, rows: Tensor) -> Tensor:
    """Returns a tensor (length, ...) with `rows` at `places` and zero elsewhere."""
    return rows.new_zeros(length, *rows.shape[1:]).index_copy(0, places, rows)


def _select_from_output(starts: Tensor) -> Any:
    def select(_: nn.Module, __: object, out: Any) -> Any:
        if isinstance(out, tuple):
            return (out[0][0].index_select(0, starts)[:, None], *out[1:])
        return out[0].index_select(0, starts)[:, None]

    return select
