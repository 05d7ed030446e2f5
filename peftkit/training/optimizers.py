"""Optimizers and learning-rate schedules."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from peftkit.methods.method import trainable_parameters
from peftkit.recipe import Training

FROM_BITSANDBYTES = {
    "adamw_8bit": "AdamW8bit", "paged_adamw_8bit": "PagedAdamW8bit", "lion": "Lion",
}  # fmt: skip
"""Name of an optimizer in a recipe -> name of its class in bitsandbytes."""


def make_optimizer(
    model: nn.Module,
    training: Training,
    scales: Mapping[str, float],
    undecayed: Collection[str] = (),
    head: Sequence[str] = (),
) -> torch.optim.Optimizer:
    """Makes the optimizer of the trainable parameters. Each combination of weight decay and
    learning rate has its own parameter group.

    Args:
        scales: parameter name -> the method's factor on the learning rate.
        head: names of the head's modules, as in `LoadedModel.head`.
        undecayed: names of matrices that get no weight decay; vectors (biases, norms, DoRA's
            magnitudes) never get it.
    """
    groups: dict[tuple[float, float], list[nn.Parameter]] = defaultdict(list)
    for name, parameter in trainable_parameters(model).items():
        exempt = parameter.dim() < 2 or name in undecayed
        decay = 0.0 if exempt else training.weight_decay
        in_head = any(f".{module}." in f".{name}" for module in head)
        rate = training.head_rate if in_head else training.learning_rate
        groups[decay, rate * scales.get(name, 1.0)].append(parameter)
    settings: list[dict[str, Any]] = [
        {"params": parameters, "lr": rate, "weight_decay": decay}
        for (decay, rate), parameters in groups.items()
    ]
    if training.optimizer == "adamw":
        return torch.optim.AdamW(settings, fused=True)
    if training.optimizer == "sgd":
        return torch.optim.SGD(settings, momentum=0.9)
    return _from_bitsandbytes(training.optimizer, settings)


def _from_bitsandbytes(name: str, settings: list[dict[str, Any]]) -> torch.optim.Optimizer:
    """Makes a bitsandbytes optimizer, whose state takes less memory; it runs on CPU and CUDA.

    For tensors of fewer than 4,096 numbers, bitsandbytes keeps the state in 32 bits.
    """
    from bitsandbytes import optim

    optimizer: torch.optim.Optimizer = getattr(optim, FROM_BITSANDBYTES[name])(settings)
    return optimizer


def make_schedule(
    optimizer: torch.optim.Optimizer, training: Training, num_steps: int
) -> torch.optim.lr_scheduler.LambdaLR:
    """Makes the learning-rate schedule: warm-up, then the recipe's decay. Call its `step` after
    each optimizer step.
    """
    warmup = round(training.warmup_ratio * num_steps)

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if training.schedule == "constant":
            return 1.0
        progress = (step - warmup) / max(1, num_steps - warmup)
        if training.schedule == "cosine":
            return 0.5 * (1 + math.cos(math.pi * progress))
        return 1 - progress

    return torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
