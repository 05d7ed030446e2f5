"""Losses of one score for each text pair.

    squared error     (s - y)^2                                                 mean over pairs
    binary            -y log sigmoid(s) - (1 - y) log(1 - sigmoid(s))           mean over pairs
    pairwise          mean over i, j with y_i > y_j of log(1 + exp(s_j - s_i))  mean over groups
    listwise          - sum over i of y_i / (sum of y) log softmax(s)_i         mean over groups

s: the model's score; y: the expected one; i, j: candidates of one group, a unit of the examples.
Pairwise is RankNet (Burges et al. 2005). Listwise is ListNet's top-one loss (Cao et al. 2007) with
the expected distribution y / sum of y. A group counts as one, however many candidates it has.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from peftkit.tasks.losses import BatchTargets, BinaryCrossEntropies, Loss, SquaredError

if TYPE_CHECKING:
    from peftkit.data.encoded import Examples

Objective = Literal["squared_error", "binary", "pairwise", "listwise"]


class _GroupLoss(Loss):
    """A loss that couples the scores of a group."""

    linear: ClassVar[bool] = False

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The scores, (outputs,), which `total` combines."""
        return outputs.float().squeeze(1)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """Number of groups."""
        assert examples.units is not None
        return float(len(np.unique(examples.units[list(indices)])))


@dataclass(frozen=True)
class PairwiseLogistic(_GroupLoss):
    """The mean logistic loss of a group's candidates with different scores (RankNet)."""

    def total(self, values: Tensor, batch: BatchTargets) -> Tensor:
        """The sum over groups, a scalar."""
        expected, units = batch.targets.squeeze(1), batch.units()
        of_group = units[:, None] == units
        higher, lower = (of_group & (expected[:, None] > expected)).nonzero(as_tuple=True)
        group_of = torch.unique(units, return_inverse=True)[1][higher]
        sizes = torch.bincount(group_of, minlength=1)[group_of]
        losses = F.softplus(values[lower] - values[higher])
        return (losses * batch.weights[higher] / sizes).sum()


@dataclass(frozen=True)
class ListwiseSoftmax(_GroupLoss):
    """The cross-entropy of a group's softmax with its normalized relevances (ListNet)."""

    def total(self, values: Tensor, batch: BatchTargets) -> Tensor:
        """The sum over groups, a scalar."""
        expected = batch.targets.squeeze(1).to(values.dtype)
        distinct, group_of = torch.unique(batch.units(), return_inverse=True)
        nothing = values.new_zeros(len(distinct))
        highest = nothing.scatter_reduce(0, group_of, values.detach(), "amax", include_self=False)
        shifted = values - highest[group_of]
        log_sums = nothing.index_add(0, group_of, shifted.exp()).log()
        relevances = nothing.index_add(0, group_of, expected)[group_of]
        shares = expected / relevances.clamp(min=torch.finfo(values.dtype).tiny)
        return (batch.weights * shares * (log_sums[group_of] - shifted)).sum()


def loss_of(objective: Objective) -> Loss:
    """Returns the loss of an objective."""
    losses: dict[Objective, Loss] = {
        "squared_error": SquaredError(),
        "binary": BinaryCrossEntropies(),
        "pairwise": PairwiseLogistic(),
        "listwise": ListwiseSoftmax(),
    }
    return losses[objective]
