"""Keeps the best weights, and says when to stop."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from peftkit.methods.method import trainable_parameters
from peftkit.metrics.metric import Metric


@dataclass
class Best:
    """The best validation score so far and the trained tensors that reached it."""

    metric: Metric
    patience: int
    """Validations without improvement before stopping; 0 for never."""
    value: float | None = None
    step: int = 0
    since: int = 0
    """Validations since the best one."""
    _score: tuple[float, float] | None = None
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, metrics: dict[str, float], model: nn.Module, step: int) -> None:
        """Records a validation; copies the trained tensors if it is the best. Of equal scores,
        which a few validation rows often give, the one with the lower loss is better.
        """
        value, loss = metrics[self.metric.name], metrics["loss"]
        score = (self.metric.goodness(value), -loss)
        self.since += 1
        if self._score is None or score > self._score:
            self._score = score
            self.value, self.step, self.since = value, step, 0
            self._weights = {
                name: parameter.detach().to("cpu", copy=True)
                for name, parameter in trainable_parameters(model).items()
            }

    @property
    def exhausted(self) -> bool:
        """Whether patience has run out."""
        return bool(self.patience) and self.since >= self.patience

    def restore(self, model: nn.Module) -> None:
        """Puts the best tensors back into the model."""
        with torch.no_grad():
            for name, parameter in trainable_parameters(model).items():
                parameter.copy_(self._weights[name])
