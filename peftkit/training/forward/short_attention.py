"""Attention within short documents on a CPU, in one thread.

    P = softmax(scaling Q K^T)          O = (P * M) V          M: dropout's mask, 0 or 1/(1-p)
    dV = (P * M)^T dO                  dP = M * (dO V^T)      dS = P * (dP - rowsum(dO * O))
    dQ = scaling dS K                  dK = scaling dS^T Q    for each head of each document

For one short document, waking the other threads costs more than the work itself, and the kernel of
`scaled_dot_product_attention` wakes them three times for each document. With documents of 30 tokens
on 2 cores, that kernel takes 17 ms of CPU time and 13 ms of wall time per row. This module takes 6
ms of CPU time and 6 ms of wall time. P and M are saved for the backward pass.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

LONGEST = 64
"""Maximum number of tokens in a short document. From about 100 tokens on, torch's kernel is
faster."""


def supports(query: Tensor) -> bool:
    """Whether this module supports a query: float32 on a CPU, without autocast."""
    plain = query.device.type == "cpu" and query.dtype == torch.float32
    return plain and not torch.is_autocast_enabled("cpu")


def attend_to_short_documents(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    lengths: Sequence[int],
    causal: bool,
    scaling: float | None,
    dropout: float,
) -> Tensor:
    """Computes the attention within short documents that are packed one after another.

    Args:
        query: (tokens, heads, d) float32; key and value may have fewer heads.
        lengths: number of tokens of each document.
        dropout: probability that an attention weight is set to zero.

    Returns:
        The output of attention, (tokens, heads, d).
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    out: Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        query, key, value, lengths, causal, scaling, dropout
    )
    return out


class _Attention(torch.autograd.Function):
    """Computes the formulas of this module's docstring. If there are fewer key heads than query
    heads, the rows of query heads that share a key head are stacked.
    """

    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        lengths: Sequence[int],
        causal: bool,
        scaling: float,
        dropout: float,
    ) -> Tensor:
        heads = key.shape[1]
        shared = query.shape[1] // heads
        later = query.new_full((max(lengths),) * 2, -torch.inf).triu_(1)
        out = query.new_empty(*query.shape[:2], value.shape[2])
        kept: list[Tensor] = []
        with _one_thread():
            for q, k, v, o in _documents(lengths, query, key, value, out):
                scores = _product(_rows(q, heads), _rows(k, heads).mT, scaling)
                if causal:
                    scores.view(heads, shared, len(k), len(k)).add_(later[: len(k), : len(k)])
                weights = scores.softmax(-1)  # (heads, shared * tokens, tokens)
                kept.append(weights)
                if dropout:
                    kept.append(torch.empty_like(weights).bernoulli_(1 - dropout).div_(1 - dropout))
                    weights = weights * kept[-1]
                _put(o, torch.bmm(weights, _rows(v, heads)))
        ctx.save_for_backward(query, key, value, out, *kept)
        ctx.lengths, ctx.scaling, ctx.dropout = lengths, scaling, dropout
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        query, key, value, out, *kept = ctx.saved_tensors
        heads, weights = key.shape[1], iter(kept)
        of_query, of_key, of_value = (torch.empty_like(t) for t in (query, key, value))
        with _one_thread():
            sums = (gradients[0] * out).sum(-1, keepdim=True)  # (tokens, heads, 1)
            tensors = (query, key, value, gradients[0], sums, of_query, of_key, of_value)
            for q, k, v, g, total, of_q, of_k, of_v in _documents(ctx.lengths, *tensors):
                softmax, rows = next(weights), _rows(g, heads)
                of_weights = torch.bmm(rows, _rows(v, heads).mT)
                if ctx.dropout:
                    dropped = next(weights)
                    of_weights *= dropped
                    _put(of_v, torch.bmm((softmax * dropped).mT, rows))
                else:
                    _put(of_v, torch.bmm(softmax.mT, rows))
                of_scores = of_weights.sub_(_rows(total, heads)).mul_(softmax)
                _put(of_q, _product(of_scores, _rows(k, heads), ctx.scaling))
                _put(of_k, _product(of_scores.mT, _rows(q, heads), ctx.scaling))
        return of_query, of_key, of_value, None, None, None, None


def _documents(lengths: Sequence[int], *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    """Yields, for each document, its part of each tensor, (tokens, heads, d)."""
    return zip(*(torch.split(tensor, list(lengths)) for tensor in tensors), strict=True)


def _rows(part: Tensor, heads: int) -> Tensor:
    """Stacks the query heads that share a key head: (tokens, heads * shared, d) -> (heads, shared *
    tokens, d).
    """
    by_head = part.transpose(0, 1)
    return by_head if len(by_head) == heads else by_head.reshape(heads, -1, part.shape[2])


def _product(one: Tensor, two: Tensor, scale: float) -> Tensor:
    """Multiplies batches of matrices, (n, ...), and scales the products."""
    return torch.baddbmm(one.new_empty(1), one, two, beta=0, alpha=scale)


def _put(there: Tensor, rows: Tensor) -> None:
    """Undoes `_rows`: writes `rows`, (heads, shared * tokens, d), into `there`, (tokens, heads *
    shared, d).
    """
    there.transpose(0, 1).copy_(rows.view(there.shape[1], *there.shape[::2]))


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
