"""What can be told of a transformers model from the names of its modules."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from torch import nn

from peftkit.bases.opened import OpenedBase

DEPTHS = ("num_hidden_layers", "num_decoder_layers", "encoder_layers", "decoder_layers")
"""Fields of a configuration that say how many blocks a stack has."""
NOT_CALLED = {
    "mamba": ("dt_proj",), "falcon_mamba": ("dt_proj",), "jamba": ("dt_proj",),
    "longcat_flash": ("classifier",),
}  # fmt: skip
"""Type of a model -> last names of the linear layers whose weights it multiplies with itself, so
that what adapts the layer's output has no effect."""


def depth(base: OpenedBase) -> int:
    """Blocks of the base, of its longest stack."""
    return max(int(getattr(base.config, name, None) or 0) for name in DEPTHS)


def stacks(model: nn.Module) -> list[tuple[str, nn.ModuleList]]:
    """The model's stacks of transformer blocks, by name, an encoder's before its decoder's."""
    config: Any = model.config
    depths = {getattr(config, name, None) for name in DEPTHS}
    found: list[tuple[str, nn.ModuleList]] = []
    for name, module in model.named_modules():
        inside = any(name.startswith(f"{outer}.") for outer, _ in found)  # a block's own parts
        if isinstance(module, nn.ModuleList) and len(module) in depths and not inside:
            found.append((name, module))
    return found


def trained_share(model: Any) -> float:
    """Share of the blocks that gradients pass through: those from the lowest trained tensor on; all
    where that is not known.

    Args:
        model: with a method in it; PEFT's wrapper too.
    """
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    own = {id(parameter) for parameter in base.parameters()}
    before_text = any(p.requires_grad and id(p) not in own for p in model.parameters())
    if len(found := stacks(base)) != 1 or before_text:
        return 1.0
    ((stack, blocks),) = found
    lowest = count = len(blocks)
    place = 0  # of the next tensor outside of the blocks: before them, then after them
    for name, parameter in base.named_parameters():
        within = re.match(rf"{re.escape(stack)}\.(\d+)\.", name)
        if within:
            place = count
        if parameter.requires_grad:
            lowest = min(lowest, int(within[1]) if within else place)
    return (count - lowest) / count


def complete_family(
    model: nn.Module, families: Iterable[tuple[str, ...]]
) -> tuple[str, ...] | None:
    """The first of several families of patterns that is whole in this model: in each of its blocks,
    every pattern matches a module's full name.

    A pattern that matches in some blocks only, or one sublayer of two, would put half of a method
    in, without a word.
    """
    names = [name for name, _ in model.named_modules()]
    blocks = [f"{stack}.{index}" for stack, of in stacks(model) for index in range(len(of))]
    for patterns in families:
        matched = [[name for name in names if re.fullmatch(p, name)] for p in patterns]
        if blocks and all(
            any(name == block or name.startswith(f"{block}.") for name in of_pattern)
            for of_pattern in matched
            for block in blocks
        ):
            return patterns
    return None
