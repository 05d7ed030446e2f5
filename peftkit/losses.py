"""Losses as sums, so that micro-batches, accumulation and processes cannot change them."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F

from peftkit.data.encoded import IGNORE_INDEX


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
    losses = F.cross_entropy(
        logits.float(),
        targets,
        ignore_index=IGNORE_INDEX,
        reduction="none",
        label_smoothing=label_smoothing,
    )
    return (losses * weights).sum()


def supervised_weight(targets: Tensor, weights: Tensor) -> Tensor:
    """Total weight of the targets that are not `IGNORE_INDEX`, a scalar."""
    return (weights * (targets != IGNORE_INDEX)).sum()
