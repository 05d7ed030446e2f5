"""Finds the modules that finish before the first trained tensor is used."""

from __future__ import annotations

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftkit.training.forward.collating import Batch


def modules_below(model: nn.Module, batch: Batch) -> list[nn.Module]:
    """Watches one forward pass to find the modules that finish before the first trained tensor is
    used.

    These modules stay in evaluation mode during training, so that their outputs for an example
    never change and can be cached.
    """
    finished: dict[nn.Module, None] = {}
    reached = False

    def enter(module: nn.Module, _: object) -> None:
        nonlocal reached
        if reached:
            finished.pop(module, None)  # it is used again after a trained tensor
        # a PEFT layer counts as a whole: its own dropout comes before its first trained tensor
        parameters = module.parameters(recurse=isinstance(module, BaseTunerLayer))
        reached = reached or any(p.requires_grad for p in parameters)

    def leave(module: nn.Module, _: object, __: object) -> None:
        if not reached:
            finished[module] = None

    handles = [
        handle
        for module in model.modules()
        for handle in (
            module.register_forward_pre_hook(enter),
            module.register_forward_hook(leave),
        )
    ]
    try:
        model.eval()
        with torch.no_grad():
            model(**batch.inputs)
    finally:
        for handle in handles:
            handle.remove()
    return list(finished)
