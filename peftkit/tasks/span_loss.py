"""The loss of a start and an end among the places of an example.

loss = -(log softmax(s)_i + log softmax(e)_j) / 2                        mean over examples

s, e: start and end logits at the places that are read in the example; i, j: the right ones. An end
of an answer that is read in another window adds nothing.
(Devlin et al. 2019, arXiv:1810.04805, section 4.2)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from peftkit.tasks.losses import BatchTargets, Loss

if TYPE_CHECKING:
    from peftkit.data.encoded import Examples


@dataclass(frozen=True)
class SpanCrossEntropy(Loss):
    """The mean of the cross-entropies of start and end."""

    linear: ClassVar[bool] = False

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The logits, (outputs, 2), which `total` normalizes within each example."""
        return outputs.float()

    def total(self, values: Tensor, batch: BatchTargets) -> Tensor:
        """The sum over examples, a scalar."""
        losses = (_log_sums(values, batch.example_of) - values) * batch.targets
        return (losses * batch.weights[:, None]).sum() / 2

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """Number of examples."""
        return float(len(indices))


def _log_sums(logits: Tensor, example_of: Tensor) -> Tensor:
    """Log sum exp of the logits of each output's example, (outputs, 2), stable for large logits."""
    groups = example_of[:, None].expand_as(logits)
    nothing = logits.new_zeros((int(example_of.max()) + 1, 2))
    highest = nothing.scatter_reduce(0, groups, logits.detach(), "amax", include_self=False)
    sums = nothing.scatter_add(0, groups, (logits - highest.gather(0, groups)).exp())
    return (highest + sums.log()).gather(0, groups)
