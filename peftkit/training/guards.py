"""Checks that turn silent failures of training into errors."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.data.encoded import Examples
from peftkit.errors import TrainingError, quoted
from peftkit.methods.method import trainable_parameters


def frozen_digest(model: nn.Module) -> str:
    """Returns the SHA-256 of all frozen parameters, to detect whether any of them changes."""
    digest = hashlib.sha256()
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            digest.update(f"{name} {tuple(parameter.shape)}\n".encode())
            flat = parameter.detach().contiguous().reshape(-1).view(torch.uint8)
            digest.update(flat.cpu().numpy().tobytes())
    return digest.hexdigest()


def check_frozen(model: nn.Module, expected: str) -> None:
    """Raises TrainingError if the frozen parameters no longer have the expected digest."""
    if frozen_digest(model) != expected:
        raise TrainingError(
            "frozen weights were changed during training",
            "find the custom method or hook that writes to the base; the adapter would not fit the "
            "original base",
        )


def check_first_gradients(model: nn.Module, supervised: float) -> None:
    """Raises TrainingError if the first step supervises nothing, if a trained tensor got no
    gradient, or if all gradients are zero.
    """
    if supervised == 0:
        raise TrainingError("nothing in the first step is supervised; the loss is empty")
    trained = trainable_parameters(model)
    without = [name for name, parameter in trained.items() if parameter.grad is None]
    if without:
        raise TrainingError(
            f"{len(without)} of {len(trained)} trained tensors got no gradient in the first "
            f"step: {quoted(without, 5)}",
            "the model's forward pass does not use them; choose other target modules",
        )
    if not any(p.grad is not None and p.grad.any() for p in trained.values()):
        raise TrainingError("all gradients of the first step are zero; nothing would be learned")


def check_counted(count: float, step: int, indices: Sequence[int], examples: Examples) -> None:
    """Raises TrainingError if nothing in a step is supervised."""
    if count > 0:
        return
    rows = ", ".join(str(examples.row(index).number) for index in indices[:10])
    raise TrainingError(
        f"step {step}: nothing in it is supervised; the loss is empty (rows {rows}"
        f"{', ...' * (len(indices) > 10)})",
        "raise `training.batch_size`, or remove those rows",
    )


def check_finite(
    loss: float, gradient_norm: float, step: int, indices: Sequence[int], examples: Examples
) -> None:
    """Raises TrainingError before a NaN or infinite step reaches the weights."""
    if math.isfinite(loss) and math.isfinite(gradient_norm):
        return
    rows = ", ".join(str(examples.row(index).number) for index in indices[:10])
    more = ", ..." if len(indices) > 10 else ""
    raise TrainingError(
        f"step {step}: the loss is {loss} and the gradient norm {gradient_norm}; the step was not "
        f"taken (rows {rows}{more})",
        "lower `training.learning_rate`; if this is the first step, check those rows",
    )


def gradient_norm(optimizer: Any, limit: float) -> Tensor:
    """Returns the L2 norm of all gradients together. If the norm exceeds a positive `limit`,
    scales the gradients down to the limit.
    """
    trained = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    return nn.utils.clip_grad_norm_(trained, limit or math.inf)
