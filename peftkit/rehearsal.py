"""Injects a method into a model of shapes, so that what cannot work is known without weights."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from torch import nn

from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.loading import LoadedModel, empty_model, quantized_empty
from peftkit.bases.opening import OpenedBase
from peftkit.data.encoded import Encoded, Head
from peftkit.errors import BaseModelError, MethodError
from peftkit.methods.method import Method, trainable_parameters
from peftkit.recipe import Training


def rehearse(
    base: OpenedBase, encoded: Encoded, method: Method, training: Training
) -> tuple[int, int]:
    """Injects the method into a model of shapes without values.

    Returns:
        The numbers of trainable and of all parameters.

    Raises:
        MethodError: the architecture does not have what the method needs.
        BaseModelError: the architecture cannot serve the task, or not as the training wants it.
    """
    empty = empty_model(base, encoded.head, training.dropout)
    total = count(empty.model.parameters())
    if training.gradient_checkpointing and not empty.model.supports_gradient_checkpointing:
        raise BaseModelError(
            f"{type(empty.model).__name__} cannot compute its activations again",
            "leave `training.gradient_checkpointing` out",
        )
    failed: RuntimeError | None = None
    for shapes in rehearsal_models(base, encoded.head):
        try:
            model = method.inject(shapes.model, encoded, shapes.head)
        except RuntimeError as error:  # torch, or bitsandbytes, can do this only with values
            failed = error
            continue
        train_added_tokens(model, base.added_ids)
        return count(trainable_parameters(model).values()), total
    raise MethodError(f"{method.kind()} cannot be put into `{base.name}`: {failed}") from failed


def rehearsal_models(base: OpenedBase, head: Head) -> Iterator[LoadedModel]:
    """Models to inject into before weights are loaded, the truest first: with the quantized layers,
    without them, and with values that mean nothing, in memory that is not touched.
    """
    if base.spec.quantization != "none":
        yield quantized_empty(base, empty_model(base, head))
    yield empty_model(base, head)
    last = empty_model(base, head)
    last.model.to_empty(device="cpu")
    yield last


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers they hold."""
    return sum(parameter.numel() for parameter in parameters)
