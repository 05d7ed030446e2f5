"""Attention inside each of several documents that lie behind one another in one row.

    out_i = softmax(q_i k_i^T * scaling) v_i        for every document i

Registered with transformers under a name of its own, for which transformers makes no mask: a block
mask of all tokens against all costs 3 to 4 times as much at 4,000 tokens, and where a model makes
one it is wrong for some (docs/log.md, 2026-11-24).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import AttentionInterface

NAME = "peftkit_packed"
HARMLESS = {
    "cache_position", "output_attentions", "output_hidden_states", "position_embeddings",
    "position_ids", "return_dict", "use_cache",
}  # fmt: skip
"""What models tell an attention function that changes nothing here."""


class CannotPack(Exception):  # nothing that a user meets
    """The model asks of attention what is not computed here."""


@contextlib.contextmanager
def packed_attention(model: nn.Module) -> Iterator[None]:
    """Inside, a model attends within documents; it must be told their `document_lengths`.

    Only the choice in the model's configuration is changed, as its user could, and put back.
    """
    AttentionInterface.register(NAME, attend_within_documents)
    configs = {id(c): c for m in model.modules() if (c := getattr(m, "config", None)) is not None}
    before = {key: getattr(c, "_attn_implementation", None) for key, c in configs.items()}
    try:
        for config in configs.values():
            if hasattr(config, "_attn_implementation"):
                config._attn_implementation = NAME
        yield
    finally:
        for key, config in configs.items():
            if before[key] is not None:
                config._attn_implementation = before[key]


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
    **others: Any,
) -> tuple[Tensor, None]:
    """As transformers' attention functions, for one row.

    Args:
        query: (1, heads, tokens, d); key and value may have fewer heads.
        sliding_window: tokens that a token sees, itself among them.
        softcap: scores are `softcap * tanh(score / softcap)` (Gemma 2).
        document_lengths: of the documents in the row.

    Returns:
        (1, tokens, heads, d), and no weights.

    Raises:
        CannotPack: something is asked that is not computed here.
    """
    unknown = [k for k, v in others.items() if v is not None and k not in HARMLESS]
    if unknown or attention_mask is not None or document_lengths is None:
        raise CannotPack(f"{type(module).__name__} asks for {unknown or 'a mask of its own'}")
    causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    lengths = list(document_lengths)
    parts = list(zip(*(torch.split(t, lengths, 2) for t in (query, key, value)), strict=True))
    options = (causal, scaling, dropout, sliding_window, softcap)
    if query.device.type == "cpu":  # padding would cost more than one call for each document
        found = [_attend(q, k, v, None, *options).transpose(1, 2) for q, k, v in parts]
    else:
        found = _side_by_side(parts, *options)
    return torch.cat(found, dim=1), None


def _side_by_side(documents: list[tuple[Tensor, ...]], *options: Any) -> list[Tensor]:
    """Attention of documents about equally long at once, padded on the right: few calls, for where
    each one has its price.

    Returns:
        (1, tokens, heads, d) for each document.
    """
    groups: dict[int, list[int]] = {}
    for place, (query, *_) in enumerate(documents):
        groups.setdefault((query.shape[2] - 1).bit_length(), []).append(place)
    found: dict[int, Tensor] = {}
    for places in groups.values():
        lengths = [documents[place][0].shape[2] for place in places]
        query, key, value = (
            torch.nn.utils.rnn.pad_sequence(
                [documents[place][which][0].transpose(0, 1) for place in places], batch_first=True
            ).transpose(1, 2)  # (documents, heads, longest, d)
            for which in range(3)
        )
        keys = None
        if min(lengths) < max(lengths) and not options[0]:  # causal: padding comes after all
            longest = torch.arange(max(lengths), device=query.device)
            keys = longest < torch.tensor(lengths, device=longest.device)[:, None]
        out = _attend(query, key, value, keys, *options).transpose(1, 2)
        for row, (place, length) in enumerate(zip(places, lengths, strict=True)):
            found[place] = out[row : row + 1, :length]
    return [found[place] for place in range(len(documents))]


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
        mask = seen if mask is None else seen & mask
    if softcap is None:
        return F.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, dropout_p=dropout, scale=scaling,
            is_causal=causal and mask is None and length > 1, enable_gqa=grouped,
        )  # fmt: skip
    if grouped:
        key, value = (t.repeat_interleave(query.shape[1] // t.shape[1], 1) for t in (key, value))
    scores = query @ key.transpose(2, 3) * (scaling or query.shape[-1] ** -0.5)
    scores = softcap * torch.tanh(scores / softcap)
    assert mask is not None
    weights = scores.masked_fill(~mask, -torch.inf).softmax(-1, dtype=torch.float32)
    return F.dropout(weights.to(query.dtype), dropout) @ value
