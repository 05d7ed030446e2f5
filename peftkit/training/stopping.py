"""Keeps the best weights, and decides when training stops."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from peftkit.methods.method import trainable_parameters
from peftkit.metrics.metric import Metric
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score


@dataclass
class Best:
    """The best validation score so far, and a copy of the trained tensors that reached it."""

    metric: Metric
    patience: int
    """Number of validations without improvement after which training stops; 0 to never stop."""
    value: float | None = None
    step: int = 0
    since: int = 0
    """Number of validations after the one with the best score."""
    decision: Decision = field(default_factory=Decision)
    """The decision of the best validation."""
    _score: tuple[float, float] | None = None
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, validated: Score, model: nn.Module, step: int) -> None:
        """Records a validation, and copies the trained tensors if its score is the best. Between
        equal scores, which are common with few validation rows, the lower loss decides.
        """
        value, loss = validated.metrics[self.metric.name], validated.metrics["loss"]
        score = (self.metric.goodness(value), -loss)
        self.since += 1
        if self._score is None or score > self._score:
            self._score = score
            self.value, self.step, self.since = value, step, 0
            self.decision = validated.decision
            self._weights = {
                name: parameter.detach().to("cpu", copy=True)
                for name, parameter in trainable_parameters(model).items()
            }

    @property
    def exhausted(self) -> bool:
        """Whether training should stop because `patience` validations brought no improvement."""
        return bool(self.patience) and self.since >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Copies the best tensors back into the model."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(model).items():
                parameter.copy_(self._weights[name])
