"""The loss of labels that do not exclude each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from torch import Tensor
from torch.nn import functional as F

from peftkit.tasks.losses import Loss, weight_of

if TYPE_CHECKING:
    from peftkit.data.encoded import Examples


@dataclass(frozen=True)
class LabelSetCrossEntropy(Loss):
    """Sum over labels of -w log p for a label that the text has, and of -log (1 - p) for one that
    it lacks; p is the sigmoid of the label's output.

    Targets are (outputs, labels): w > 0 for a label that the text has, 0 for one that it lacks.
    """

    label_smoothing: float = 0.0
    """Share e of the certainty that is taken away: 1 becomes 1 - e/2, and 0 becomes e/2."""
    weighted: bool = True
    """Whether the weights w count; if not, all are 1."""

    def values(self, outputs: Tensor, targets: Tensor) -> Tensor:
        """The loss of each output's labels, (outputs,)."""
        outputs, given = outputs.float(), targets > 0
        expected = given.float() * (1 - self.label_smoothing) + self.label_smoothing / 2
        losses = F.binary_cross_entropy_with_logits(outputs, expected, reduction="none")
        if self.weighted:
            losses = losses * targets.float().where(given, 1.0)
        return losses.sum(dim=1)

    def count(self, examples: Examples, indices: Sequence[int]) -> float:
        """The number of texts; the windows of one text count as one."""
        return weight_of(examples, indices)

    def plain(self) -> LabelSetCrossEntropy:
        """The same loss without label smoothing and without weights."""
        return replace(self, label_smoothing=0.0, weighted=False)
