"""Engines of tiny models on the CPU."""

from __future__ import annotations

from accelerate import Accelerator
from torch import nn

from peftkit.data.head import Head
from peftkit.methods.method import Layout
from peftkit.tasks.losses import CrossEntropy, Loss
from peftkit.training.forward.engine import Engine

CPU = Accelerator(cpu=True)


def engine_of(
    model: nn.Module,
    head: Head,
    layout: Layout = "padded",
    loss: Loss | None = None,
    pad_token_id: int = 0,
    micro_batch_tokens: int = 4096,
) -> Engine:
    loss = CrossEntropy() if loss is None else loss
    return Engine.of(model, head, loss, pad_token_id, micro_batch_tokens, CPU, layout)
