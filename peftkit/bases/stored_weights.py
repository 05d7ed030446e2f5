"""Finds architectures that use a quantized layer's stored weight without calling the layer.

Mamba, for example, multiplies by `dt_proj.weight` instead of calling `dt_proj`. There a forward
pass on the meta device fails, because a quantized weight is stored in another shape and dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from peftkit.bases.quantizing import is_quantized


class _Stored(nn.Module):
    """Replaces a quantized layer: returns tensors of the right shapes, and computes nothing.

    Args:
        layer: a bitsandbytes layer on the meta device.
        read: list to which `name` is added whenever the weight is read.
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
        """A weight shaped as stored: a byte holds two 4-bit numbers or one 8-bit number."""
        self.read.append(self.name)
        return torch.empty(self.stored_shape, dtype=self.dtype, device="meta")

    def forward(self, x: Tensor) -> Tensor:
        """Inputs (..., in) -> empty outputs (..., out)."""
        return x.new_empty((*x.shape[:-1], self.out_features))


def uncalled_layers(model: nn.Module, inputs: dict[str, Tensor]) -> list[str]:
    """Finds a quantized layer whose stored weight the model uses without calling the layer. Returns
    a list with the layer's name; empty if the forward pass succeeds or reads no such weight.

    Args:
        model: a model on the meta device, from `quantized_empty`; not changed.
        inputs: inputs of a forward pass.
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
