"""Losses as sums, so that a step can be split into micro-batches or processes.

loss of a step = sum over its micro-batches of total(values) / count
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from peftkit.data.encoded import IGNORE_INDEX

if TYPE_CHECKING:
    from peftkit.data.encoded import Examples

MANY = 4096
"""Fewest classes for which `_CrossEntropies` saves time; a vocabulary has more."""


class LossSettings(Protocol):
    """The fields of a recipe's `training` section that set the loss."""

    @property
    def label_smoothing(self) -> float:
        """Share of the target's probability that is spread over all classes."""


class BatchTargets(Protocol):
    """The targets and weights of a batch, in the order of its outputs, and its units."""

    @property
    def targets(self) -> Tensor:
        """The expected values, (outputs, ...)."""

    @property
    def weights(self) -> Tensor:
        """(outputs,) float32, weight of each output in the loss."""

    @property
    def example_of(self) -> Tensor:
        """(outputs,) int64, the number of each output's example in the batch, from 0."""

    def units(self) -> Tensor:
        """(examples,) int64, the id of the unit that each example belongs to."""


class Loss:
    """What training minimizes: the sum of `total` over the batches of an optimizer step, divided by
    the `count` of the step's examples.
    """

    linear: ClassVar[bool] = True
    """Whether `total` is the weighted sum of the values."""
    needs_start_values: ClassVar[bool] = False
    """Whether the loss compares with the model before training. If so, the column `start_values` of
    the examples holds the loss value of each output right after injection."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """Computes the loss values. For language models, they are (outputs,) float32, and each
        depends only on its own output. For other heads, they may have any shape.

        Args:
            outputs: (outputs, classes or vocabulary), logits at the places that are read.
            targets: (outputs, ...).
        """
        raise NotImplementedError

    def total(self, values: Tensor, batch: BatchTargets) -> Tensor:
        """The sum of a batch's values, a scalar. It may combine values within one example or unit,
        but not across them.
        """
        return (values * batch.weights).sum()

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The number by which the total of these examples is divided; depends only on the data."""
        raise NotImplementedError

    def plain(self) -> Loss:
        """The loss without regularization, such as label smoothing; recipes are compared by it."""
        return self


@dataclass(frozen=True)
class CrossEntropy(Loss):
    """-log p_target, weighted; with label smoothing (Szegedy et al. 2016, arXiv:1512.00567)."""

    label_smoothing: float = 0.0
    """Share of the target's probability that is spread over all classes."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss values, (outputs,); 0 where a target is `IGNORE_INDEX`."""
        return cross_entropies(outputs, targets, self.label_smoothing)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The sum of the weights of the supervised targets."""
        spans = [examples.outputs_of(index) for index in indices]
        known = np.concatenate([examples.targets[span] for span in spans]) != IGNORE_INDEX
        if examples.weights is None:
            return float(known.sum())
        weights = torch.from_numpy(np.concatenate([examples.weights[span] for span in spans]))
        return float((weights * torch.from_numpy(known)).sum())

    def plain(self) -> CrossEntropy:
        """The same loss without label smoothing."""
        return replace(self, label_smoothing=0.0)


@dataclass(frozen=True)
class SquaredError(Loss):
    """(output - target)², weighted, summed over the numbers of an output."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The squared errors, (outputs,)."""
        return (outputs.float() - targets).square().sum(dim=-1)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The sum of the weights of the examples' outputs."""
        return weight_of(examples, indices)


@dataclass(frozen=True)
class BinaryCrossEntropies(Loss):
    """-log p of each target, 0 or 1, of its own logit; weighted, summed over an output's logits."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The sums of cross-entropies, (outputs,)."""
        losses = F.binary_cross_entropy_with_logits(outputs.float(), targets, reduction="none")
        return losses.sum(dim=-1)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The sum of the weights of the examples' outputs."""
        return weight_of(examples, indices)


@dataclass(frozen=True)
class ValueByValue(Loss):
    """Wraps a loss, and sums its weighted values without combining them. So the examples of a unit
    can run one by one, and the gradients of single outputs can be compared.
    """

    loss: Loss

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The values of the wrapped loss."""
        return self.loss.values(outputs, targets)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The count of the wrapped loss."""
        return self.loss.count(examples, indices)


def weight_of(examples: Examples, indices: Sequence[int]) -> float:
    """The sum of the weights of all outputs of the examples at `indices`."""
    spans = [examples.outputs_of(index) for index in indices]
    if examples.weights is None:
        return float(sum(span.stop - span.start for span in spans))
    weights = np.concatenate([examples.weights[span] for span in spans])
    return float(weights.sum(dtype=np.float64))


def cross_entropies(logits: Tensor, targets: Tensor, label_smoothing: float = 0.0) -> Tensor:
    """-log p_target for each target, (targets,) float32; 0 where a target is `IGNORE_INDEX`.

    Args:
        logits: (targets, classes), any float type.
        targets: (targets,), class indices, or `IGNORE_INDEX`.
        label_smoothing: between 0 and 1.
    """
    logits = logits.float()
    if logits.shape[-1] >= MANY and not label_smoothing:
        losses: Tensor = _CrossEntropies.apply(logits, targets)  # type: ignore[no-untyped-call]
        return losses
    return F.cross_entropy(
        logits, targets, ignore_index=IGNORE_INDEX, reduction="none",
        label_smoothing=label_smoothing,
    )  # fmt: skip


def loss_and_hit(outputs: Tensor, targets: Tensor) -> Tensor:
    """Returns (outputs, 2): the cross-entropy of each output, and 1 if its target was the most
    likely class, else 0.
    """
    losses = F.cross_entropy(outputs, targets, reduction="none")
    return torch.stack((losses, (outputs.argmax(dim=-1) == targets).float()), dim=1)


class _CrossEntropies(torch.autograd.Function):
    """-log p_target, (n,). The gradient (p - onehot) overwrites the saved log p, so torch refuses a
    second backward pass.

    Torch's own function makes two more matrices of the logits' size. With 49,152 tokens,
    they cost an eighth of the time of output layer and loss (docs/log.md, 2026-11-26).
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
