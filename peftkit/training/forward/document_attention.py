"""Attention within each of the documents that are packed in one row.

    out_i = softmax(q_i k_i^T * scaling) v_i        for every document i

The function is registered with transformers under a new name, so that transformers makes no mask. A
block mask over all pairs of tokens costs 3 to 4 times as much at 4,000 tokens, and some models make
a wrong mask (docs/log.md, 2026-11-24).
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface

from peftkit.training.forward import short_attention
from peftkit.training.forward.first_tokens import attend_from_first
from peftkit.training.forward.grouped_attention import attend, attend_in_groups, group_documents
from peftkit.training.forward.short_attention import attend_to_short_documents

NAME = "peftkit_packed"
ACCELERATOR_CALL = 2048
"""Cost of calling the attention kernel once on an accelerator, in tokens; an estimate, not
measured."""
HARMLESS = {
    "cache_position", "output_attentions", "output_hidden_states", "output_router_logits",
    "position_embeddings", "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""Arguments of attention functions that `attend_within_documents` can ignore."""


class CannotPack(Exception):  # never raised to a user
    """Raised if a model asks for attention that this module does not compute."""


def attention_configs(model: nn.Module) -> list[Any]:
    """Returns the configurations that name the attention function of a model's modules."""
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    return [config for config in configs.values() if hasattr(config, "_attn_implementation")]


@contextlib.contextmanager
def packed_attention(configs: Sequence[Any]) -> Iterator[None]:
    """Inside the block, models with these configurations attend only within documents; calls of
    the models must pass `document_lengths`.

    Changes only the attention function that each configuration names, and restores it afterwards.
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
    """Computes the attention within a row's documents; an attention function for transformers.

    Args:
        query: (1, heads, tokens, d); key and value may have fewer heads.
        sliding_window: number of tokens that a token sees, itself included.
        softcap: replaces scores by `softcap * tanh(score / softcap)` (Gemma 2).
        document_lengths: number of tokens of each document in the row.
        shared_tokens: number of first tokens that all documents share; only document 1 has them.
        only_first: whether only the first token's output of each document is read.

    Returns:
        The output of attention, (1, tokens, heads, d), and None instead of attention weights.

    Raises:
        CannotPack: the model asks for something that this module does not compute.
    """
    _check_supported(module, attention_mask, document_lengths, others)
    assert document_lengths is not None
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    options = (causal, scaling, dropout, sliding_window, softcap)
    if shared_tokens:
        if not causal:
            raise CannotPack(f"{type(module).__name__} lets shared tokens see later ones")
        query, key, value = (
            repeat_shared(tensor, document_lengths, shared_tokens) for tensor in (query, key, value)
        )
    if only_first and not (causal or sliding_window or softcap):
        return attend_from_first(query, key, value, document_lengths, scaling, dropout), None
    if query.device.type == "cpu":  # kernel calls cost little on a CPU
        out = attend_in_turn(query, key, value, document_lengths, *options)
    else:
        groups = group_documents(document_lengths, query.device, ACCELERATOR_CALL)
        out = attend_in_groups(query, key, value, groups, *options)
    return drop_repeated(out, document_lengths, shared_tokens) if shared_tokens else out, None


def _check_supported(
    module: nn.Module, mask: Tensor | None, lengths: tuple[int, ...] | None, others: dict[str, Any]
) -> None:
    """Raises CannotPack if a model asks for attention that this module does not compute."""
    unknown = [
        k for k, v in others.items() if v is not None and v is not False and k not in HARMLESS
    ]
    if unknown or mask is not None or lengths is None:
        raise CannotPack(f"{type(module).__name__} asks for {unknown or 'its own mask'}")


def repeat_shared(row: Tensor, lengths: tuple[int, ...], shared: int) -> Tensor:
    """Copies the first tokens that documents share from document 1 to the start of all others.

    Args:
        row: (1, heads, tokens, d).
    """
    first, *rests = torch.split(row, [lengths[0], *(n - shared for n in lengths[1:])], 2)
    beginning = first[:, :, :shared]
    return torch.cat([first, *itertools.chain(*((beginning, rest) for rest in rests))], 2)


def drop_repeated(row: Tensor, lengths: tuple[int, ...], shared: int) -> Tensor:
    """Removes shared tokens from all documents but the first; `row` is (1, tokens, heads, d)."""
    sizes = [size for length in lengths[1:] for size in (shared, length - shared)]
    first, *parts = torch.split(row, [lengths[0], *sizes], 1)
    return torch.cat([first, *parts[1::2]], 1)


def attend_in_turn(
    query: Tensor, key: Tensor, value: Tensor, lengths: tuple[int, ...], *options: Any
) -> Tensor:
    """Computes attention one document after another. Neighbours that are all short, or of equal
    length, are computed together.

    Returns:
        The output of attention, (1, tokens, heads, d).
    """
    causal, scaling, dropout, window, softcap = options
    seen_whole = softcap is None and (window is None or window >= short_attention.LONGEST)
    short = short_attention.LONGEST if seen_whole and short_attention.supports(query) else 0
    runs = [tuple(run) for _, run in itertools.groupby(lengths, lambda length: max(length, short))]
    # split along the tokens of (1, tokens, heads, d), so that gradients keep this memory order
    rows = [[t.transpose(1, 2)] for t in (query, key, value)]
    if len(runs) > 1:
        rows = [list(torch.split(t, [*map(sum, runs)], 1)) for (t,) in rows]
    outs = []
    for run, *parts in zip(runs, *rows, strict=True):
        if run[0] <= short:
            q, k, v = (part.squeeze(0) for part in parts)
            out = attend_to_short_documents(q, k, v, run, causal, scaling, dropout)
        else:
            q, k, v = (t.view(len(run), run[0], *t.shape[2:]).transpose(1, 2) for t in parts)
            out = attend(q, k, v, None, *options).transpose(1, 2)
            out = out.reshape(sum(run), *out.shape[2:])
        outs.append(out)
    return (outs[0] if len(outs) == 1 else torch.cat(outs))[None]
