"""Losses as sums, so that micro-batches, accumulation and processes cannot change them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftkit.data.encoded import IGNORE_INDEX

MANY = 4096
"""Classes from which on a gradient of their number is worth sparing: the vocabulary of a model."""


def cross_entropy_sum(
    logits: Tensor, targets: Tensor, weights: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Weighted sum of cross-entropies in float32.

    Args:
        logits: (targets, classes), any float type.
        targets: (targets,), class indices, or `IGNORE_INDEX`.
        weights: (targets,).
        label_smoothing: between 0 and 1 (Szegedy et al. 2016, arXiv:1512.00567).
    """
    logits = logits.float()
    if logits.shape[-1] >= MANY and not label_smoothing:
        losses: Tensor = _CrossEntropies.apply(logits, targets)  # type: ignore[no-untyped-call]
    else:
        losses = F.cross_entropy(
            logits,
            targets,
            ignore_index=IGNORE_INDEX,
            reduction="none",
            label_smoothing=label_smoothing,
        )
    return (losses * weights).sum()


def supervised_weight(targets: Tensor, weights: Tensor) -> Tensor:
    """Total weight of the targets that are not `IGNORE_INDEX`, a scalar."""
    return (weights * (targets != IGNORE_INDEX)).sum()


class _CrossEntropies(torch.autograd.Function):
    """-log p_target, (n,), whose gradient (p - onehot) takes the place of the log p that were kept:
    one backward pass only, torch refuses a second.

    Torch's own makes two more matrices of that size: an eighth of the time of an output layer with
    49,152 tokens (docs/log.md, 2026-11-26).
    """

    @staticmethod
    def forward(ctx: Any, logits: Tensor, targets: Tensor) -> Tensor:
        log_p, ignored = logits.log_softmax(-1), targets == IGNORE_INDEX
        at = targets.masked_fill(ignored, 0)[:, None]
        ctx.save_for_backward(log_p, at, ignored)
        return -log_p.gather(1, at).squeeze(1).masked_fill_(ignored, 0.0)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        log_p, at, ignored = ctx.saved_tensors
        p = log_p.exp_()
        p.scatter_add_(1, at, p.new_full(at.shape, -1.0))
        return p.mul_(gradients[0].masked_fill(ignored, 0.0)[:, None]), None
