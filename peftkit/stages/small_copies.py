"""Makes copies of a base with few blocks and random weights, which are quick to measure."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.bases.architectures import DEPTHS, depth
from peftkit.bases.loading import config_with_head, model_class
from peftkit.bases.opened import OpenedBase
from peftkit.data.head import Head
from peftkit.errors import BaseModelError


def _derives_kinds(config: Any) -> bool:
    """Whether the configuration computes each block's kind from its position, as in Jamba."""
    return isinstance(getattr(type(config), "layer_types", None), property)


def least_blocks(base: OpenedBase) -> int:
    """Number of blocks in the smallest copy that has every kind of block."""
    if not _derives_kinds(base.config):
        return 1
    kinds = list(base.config.layer_types)
    return 1 + max(map(kinds.index, kinds), default=0)


def shrink_base(base: OpenedBase, head: Head, num_blocks: int, folder: Path) -> OpenedBase:
    """Saves a copy of a base with another number of blocks into a folder.

    The copy's weights are random and not quantized; loading quantizes them as the recipe says.

    Raises:
        BaseModelError: the configuration does not say how many blocks there are.
    """
    if not depth(base):
        raise BaseModelError(
            f"the configuration of `{base.name}` does not give the number of blocks"
        )
    config = copy.deepcopy(base.config)
    if base.prequantized:
        del config.quantization_config
    for name in DEPTHS:
        if getattr(config, name, None):
            setattr(config, name, num_blocks)
    if getattr(config, "layer_types", None) and not _derives_kinds(config):
        config.layer_types = config.layer_types[-num_blocks:]
    small = replace(base, folder=folder, config=config, source=None, hub_id="")
    config = config_with_head(small, head, None)
    model = model_class(head, config, base.name).from_config(
        config, trust_remote_code=base.spec.trust_remote_code
    )
    model.save_pretrained(folder)
    return small
