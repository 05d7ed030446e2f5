"""Which weights were best, and when to stop looking for better ones."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from peftkit.methods.method import trainable_parameters


@dataclass
class Best:
    """The best validation score so far and the trained tensors that reached it."""

    metric: str
    patience: int
    """Validations without improvement before stopping; 0 for never."""
    value: float | None = None
    step: int = 0
    since: int = 0
    """Validations since the best one."""
    _weights: dict[str, Tensor] = field(default_factory=dict)

    def update(self, metrics: dict[str, float], model: nn.Module, step: int) -> None:
        """Takes note of a validation; keeps a copy of the trained tensors if it is the best."""
        value = metrics[self.metric]
        better = self.value is None or (
            value < self.value if self.metric == "loss" else value > self.value
        )
        self.since += 1
        if better:
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
