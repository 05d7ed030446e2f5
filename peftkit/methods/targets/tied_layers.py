"""Separates layers that share a weight, such as an output layer that is tied to the embedding.

Merging an update into a shared weight would change both layers, so each gets its own weight first.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peft.tuners.trainable_tokens import TrainableTokensLayer
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn


def untie_adapted(model: nn.Module) -> None:
    """If an adapted layer shares its weight, gives every module its own weight, and sets
    `tie_word_embeddings` in the model's configuration to False.
    """
    owners = _owners(model)
    adapted = (
        layer.get_base_layer()
        for layer in model.modules()
        # PEFT itself ties the rows of tokens that it trains
        if isinstance(layer, BaseTunerLayer) and not isinstance(layer, TrainableTokensLayer)
    )
    if not any(_shares(layer, owners) for layer in adapted):
        return
    for holders in owners.values():
        for module, name in holders[1:]:
            shared: Any = getattr(module, name)
            copied = nn.Parameter(shared.detach().clone(), requires_grad=shared.requires_grad)
            setattr(module, name, copied)
    config: Any = model.config
    config.tie_word_embeddings = False


def _owners(model: nn.Module) -> dict[int, list[tuple[nn.Module, str]]]:
    """Returns id of a parameter -> (module, name in the module) for all modules that share it."""
    owners: dict[int, list[tuple[nn.Module, str]]] = {}
    for module in model.modules():
        for name, parameter in module._parameters.items():
            if parameter is not None:
                owners.setdefault(id(parameter), []).append((module, name))
    return owners


def _shares(layer: nn.Module, owners: dict[int, list[tuple[nn.Module, str]]]) -> bool:
    parameters: Iterable[Any] = layer.parameters(recurse=False)
    return any(len(owners[id(parameter)]) > 1 for parameter in parameters)
