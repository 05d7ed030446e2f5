"""Folds PEFT's layers into the base's weights."""

from __future__ import annotations

from peft.utils import ModulesToSaveWrapper
from torch import nn

from peftkit.methods.peft.layers import tuner_layers
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.targets.tied_layers import untie_adapted


def merge_peft(model: nn.Module) -> nn.Module:
    """Returns the base model with PEFT's layers folded into its weights and removed.

    Merges one layer at a time in float32, then rounds to the dtype of the layer's weight. If
    embedding and output layer share a weight and one of them is adapted, each layer first gets its
    own weight.
    """
    for parent in list(model.modules()):  # PEFT's IA3 cannot unwrap a head of several layers
        for name, child in list(parent.named_children()):
            if isinstance(child, ModulesToSaveWrapper):
                setattr(parent, name, child.modules_to_save[child.active_adapters[0]])
    untie_adapted(model)
    for layer in tuner_layers(model):
        dtypes = [parameter.dtype for parameter in layer.get_base_layer().parameters()]
        layer.get_base_layer().float()
        layer.merge()  # in place; `safe_merge` would hold the weight twice
        for parameter, dtype in zip(layer.get_base_layer().parameters(), dtypes, strict=True):
            if not bool(parameter.isfinite().all()):
                raise ValueError("its weights would hold numbers that are not finite")
            parameter.data = parameter.data.to(dtype)
    merged: nn.Module = model.unload()  # type: ignore[operator]
    return merged


def rescale_lora(model: nn.Module, scale: float) -> None:
    """Multiplies the strength of a LoRA by `scale`: W + scale * s B A."""
    for layer in tuner_layers(model):
        layer.scaling[ADAPTER_NAME] *= scale
