"""Measures the memory of a loaded model's weights, including quantization state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn


@dataclass(frozen=True)
class Footprint:
    """Memory of a model's weights, in MB (2^20 bytes)."""

    weights_mb: float
    """Memory of parameters and buffers as stored, in MB."""
    quantization_state_mb: float
    """Memory of the scales and code books of quantized weights, in MB. transformers'
    `get_memory_footprint` omits it."""

    @property
    def total_mb(self) -> float:
        """Weights and quantization state together, in MB."""
        return self.weights_mb + self.quantization_state_mb


def footprint(model: nn.Module) -> Footprint:
    """Measures a model's weights; counts a tensor shared by several modules once."""
    stored = [*model.parameters(), *model.buffers()]
    states = [tensor for p in model.parameters() for tensor in _state(p)]
    for module in model.modules():  # int8 scales exist after the first forward pass
        scales = getattr(getattr(module, "state", None), "SCB", None)
        states += [] if scales is None else [scales]
    return Footprint(_megabytes(stored), _megabytes(states))


def _state(parameter: Any) -> list[Tensor]:
    """Tensors that bitsandbytes keeps beside a quantized weight."""
    state = getattr(parameter, "quant_state", None)
    tensors = []
    while state is not None:  # with double quantization, scales have a state too
        tensors += [state.absmax, state.code, *([] if state.offset is None else [state.offset])]
        state = state.state2
    scales = getattr(parameter, "SCB", None)  # int8's
    return tensors if scales is None else [*tensors, scales]


def _megabytes(tensors: list[Tensor]) -> float:
    distinct = {id(tensor): tensor for tensor in tensors}
    return sum(t.numel() * t.element_size() for t in distinct.values()) / 2**20
