"""Finds architectures that compute with a quantized layer's stored weight instead of calling it.

Mamba multiplies with `dt_proj.weight` instead of calling `dt_proj`. A forward pass on the meta
device shows it: each layer's output has the right shape, and its weight the stored shape.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftkit.bases.quantizing import is_quantized


class _Stored(nn.Module):
    """The shapes of a quantized layer.

    Args:
        layer: of bitsandbytes, on the meta device.
        read: gets the name when the weight is read.
    """

    def __init__(self, name: str, layer: Any, read: list[str]) -> None:
        super().__init__()
        self.name, self.read, self.bias = name, read, layer.bias
        self.in_features, self.out_features = layer.in_features, layer.out_features
        numbers = layer.in_features * layer.out_features
        four_bits = hasattr(layer, "compute_dtype")
        self.stored_shape = ((numbers + 1) // 2, 1) if four_bits else tuple(layer.weight.shape)
        self.dtype = torch.uint8 if four_bits else torch.int8

    @property
    def weight(self) -> Tensor:
        """The stored weight: two numbers in a byte, or one."""
        self.read.append(self.name)
        return torch.empty(self.stored_shape, dtype=self.dtype, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return x.new_empty((*x.shape[:-1], self.out_features))


def uncalled_layers(model: nn.Module, inputs: dict[str, Tensor]) -> list[str]:
    """A list with the layer whose stored weight the model computes with; empty if there is none, or
    shapes do not show it.

    Args:
        model: on the meta device, from `quantized_empty`; left unchanged.
        inputs: of its forward pass.
    """
    layers = {name: module for name, module in model.named_modules() if is_quantized(module)}
    read: list[str] = []
    for name, layer in layers.items():
        model.set_submodule(name, _Stored(name, layer, read))
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    except Exception:  # operations raise many types for a weight that is no matrix of floats
        return read[-1:]
    finally:
        model.train(training)
        for name, layer in layers.items():
            model.set_submodule(name, layer)
    return []
