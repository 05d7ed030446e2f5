"""Reads the structure of a transformers model from the names of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from peftkit.bases.opened import OpenedBase
from peftkit.errors import BaseModelError

DEPTHS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Configuration fields that hold the number of blocks in a stack."""
NOT_CALLED = {
    "mamba": ("dt_proj",), "falcon_mamba": ("dt_proj",), "jamba": ("dt_proj",),
    "longcat_flash": ("classifier",),
}  # fmt: skip
"""Model type -> last parts of the names of linear layers whose weights the model reads without
calling the layer. An adapter on the output of such a layer has no effect."""


def check_continues(base: OpenedBase) -> None:
    """Raises BaseModelError if the base is an encoder, in which tokens see later tokens.
    transformers would load the encoder as a causal language model without an error.
    """
    from transformers.models.auto import modeling_auto as auto

    config = base.config
    encoders = auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    if config.model_type in encoders and getattr(config, "is_decoder", None) is False:
        raise BaseModelError(
            f"`{base.name}` is a {config.model_type} model, an encoder, which reads texts but does "
            "not continue them",
            "choose a causal language model, such as `packaged:smollm2-135m-instruct`",
        )


def is_decoder(config: Any) -> bool:
    """Whether the architecture reads from left to right, so that a token sees no later ones.

    Args:
        config: a configuration, from transformers.
    """
    from transformers.models.auto import modeling_auto as auto

    writes = config.model_type in auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES
    fills = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES
    return writes and not fills and not config.is_encoder_decoder


def depth(base: OpenedBase) -> int:
    """Number of blocks in the base's longest stack."""
    return max(int(getattr(base.config, name, None) or 0) for name in DEPTHS)


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """(name, blocks) of each stack of transformer blocks; an encoder comes before its decoder."""
    config: Any = model.config
    depths = {getattr(config, name, None) for name in DEPTHS}
    outer: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{stack}.") for stack, _ in outer)  # nested in a block
        if isinstance(module, nn.ModuleList) and len(module) in depths and not inside:
            outer.append((name, module))
    return outer


def trained_share(model: Any) -> float:
    """Share of the blocks that gradients pass through: the block of the lowest trained tensor and
    all blocks above it. 1 if the share is unknown.

    Args:
        model: a model with a method injected, or PEFT's wrapper of one.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    in_base = {id(parameter) for parameter in base.parameters()}
    before_text = any(p.requires_grad and id(p) not in in_base for p in model.parameters())
    if len(all_stacks := stacks(base)) != 1 or before_text:
        return 1.0
    ((stack, blocks),) = all_stacks
    lowest = count = len(blocks)
    outside = 0  # index of a tensor outside the blocks: 0 before them, `count` after them
    for name, parameter in base.named_parameters():
        block = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
        if block:
            outside = count
        if parameter.requires_grad:
            lowest = min(lowest, int(block[1]) if block else outside)
    return (count - lowest) / count


def complete_family(
    model: nn.Module, families: Iterable[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The first family of patterns that fits the model; None if none fits.

    A family fits if each of its patterns matches the full name of a module in every block. A family
    that matched only some blocks, or only one of two sublayers, would silently inject too little.
    """
    names = [name for name, _ in model.named_modules()]
    blocks = [f"{name}.{index}" for name, stack in stacks(model) for index in range(len(stack))]
    for patterns in families:
        matched = [[name for name in names if re.fullmatch(p, name)] for p in patterns]
        if blocks and all(
            any(name == block or name.startswith(f"{block}.") for name in matches)
            for matches in matched
            for block in blocks
        ):
            return patterns
    return None
