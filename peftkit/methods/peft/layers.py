"""Finds PEFT's layers in a model with an adapter, and checks their ranks."""

from __future__ import annotations

from typing import Any

from peft.tuners.lora import LoraLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftkit.errors import MethodError
from peftkit.methods.peft.types import ADAPTER_NAME


def lora_layers(model: nn.Module) -> dict[str, LoraLayer]:
    """Returns PEFT's LoRA layers by their names in the base, in the model's order."""
    return {
        name.removeprefix("base_model.model."): module
        for name, module in model.named_modules()
        if isinstance(module, LoraLayer)
    }


def check_rank(model: Any, most: int = 0) -> None:
    """Raises MethodError if a LoRA layer's rank is above its number of inputs or outputs, or if the
    layer is not linear.

    Args:
        most: largest rank that initialisation can give a layer; if 0, present ranks are checked.
    """
    layer: Any
    for name, layer in lora_layers(model).items():
        if ADAPTER_NAME not in layer.lora_A or not hasattr(layer.get_base_layer(), "weight"):
            raise MethodError(
                f"`{name}` is not a linear layer, and only LoRA's initialisation fits it",
                "use LoRA, or leave it out of `method.target_modules`",
            )
        width = min(layer.in_features, layer.out_features)
        layer_rank = layer.r[ADAPTER_NAME]
        rank = most or layer_rank
        if rank > width:
            field = "r" if layer_rank == model.peft_config[ADAPTER_NAME].r else "rank_pattern"
            raise MethodError(
                f"`method.{field}`: `{name}` has {layer.in_features} inputs and "
                f"{layer.out_features} outputs, which is too few for rank {rank}",
                f"lower it to {width}, or leave that layer out of `method.target_modules`",
            )


def tuner_layers(model: nn.Module) -> list[Any]:
    """Returns PEFT's layers, in the model's order."""
    return [module for module in model.modules() if isinstance(module, BaseTunerLayer)]
