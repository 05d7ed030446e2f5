"""Saving and loading exactly the trained tensors, for methods that add none to the model."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import nn

from peftkit.errors import AdapterError, quoted
from peftkit.methods.method import trainable_parameters

WEIGHTS = "trained.safetensors"


def save_trained(model: nn.Module, folder: Path) -> None:
    """Writes the trainable parameters under their names in the model."""
    tensors = {
        name: p.detach().cpu().contiguous() for name, p in trainable_parameters(model).items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def load_trained(model: nn.Module, folder: Path) -> nn.Module:
    """The model with those parameters replaced.

    Raises:
        AdapterError: the model has no parameter of that name and shape.
    """
    tensors = load_file(folder / WEIGHTS)
    parameters = dict(model.named_parameters())
    wrong = [
        name
        for name, tensor in tensors.items()
        if name not in parameters or parameters[name].shape != tensor.shape
    ]
    if wrong:
        raise AdapterError(
            f"`{folder / WEIGHTS}` has tensors that {type(model).__name__} lacks: {quoted(wrong)}"
        )
    for name, tensor in tensors.items():
        parameter = parameters[name]
        parameter.data = tensor.to(parameter.device)
    return model.requires_grad_(False)
