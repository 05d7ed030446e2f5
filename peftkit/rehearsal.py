"""Injects a method into a model of shapes, so that what cannot work is known without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import torch
from torch import nn

from peftkit.architectures import trained_share
from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.loading import LoadedModel, empty_model, quantized_empty
from peftkit.bases.opening import OpenedBase
from peftkit.data.encoded import Encoded
from peftkit.errors import BaseModelError, MethodError, first_line, quoted
from peftkit.methods.method import Method, trainable_parameters
from peftkit.recipe import Training


def rehearse(
    base: OpenedBase,
    encoded: Encoded,
    method: Method,
    training: Training,
    start: Path | None = None,
) -> tuple[int, int, float]:
    """Injects the method into a model of shapes without values.

    Args:
        start: folder of an adapter that must fit into it.

    Returns:
        The numbers of trainable and of all parameters, and the share of the base's blocks that
        gradients pass through.

    Raises:
        MethodError: the architecture does not have what the method needs.
        AdapterError: the adapter to start from is of another method, or has other settings.
        BaseModelError: the architecture cannot serve the task, or not as the training wants it.
    """
    empty = empty_model(base, encoded.head, training.dropout)
    total = count(empty.model.parameters())
    if training.gradient_checkpointing and not empty.model.supports_gradient_checkpointing:
        raise BaseModelError(
            f"{type(empty.model).__name__} cannot compute its activations again",
            "leave `training.gradient_checkpointing` out",
        )
    model = _inject_into_shapes(base, encoded, method)
    if start is not None and next(model.parameters()).is_meta:
        method.restore(model, start)
    train_added_tokens(model, base.added_ids)
    trainable = count(trainable_parameters(model).values())
    check_gradients(empty, encoded, method)
    return trainable, total, trained_share(model)


def _inject_into_shapes(base: OpenedBase, encoded: Encoded, method: Method) -> nn.Module:
    """The model with the method in it, in the truest surroundings that need no weights: with the
    quantized layers, without them, or with values that mean nothing, in memory that is not touched.
    """
    kinds: list[Callable[[], LoadedModel]] = [
        lambda: empty_model(base, encoded.head),
        lambda: _with_meaningless_values(empty_model(base, encoded.head)),
    ]
    if base.spec.quantization != "none":
        kinds.insert(0, lambda: quantized_empty(base, empty_model(base, encoded.head)))
    failed: RuntimeError | None = None
    for make in kinds:
        shapes = make()
        try:
            return method.inject(shapes.model, encoded, shapes.head)
        except RuntimeError as error:
            failed = error
            if not _needs_values(error):
                break
    raise MethodError(f"{method.kind()} cannot be put into `{base.name}`: {failed}") from failed


def _with_meaningless_values(empty: LoadedModel) -> LoadedModel:
    empty.model.to_empty(device="cpu")
    for buffer in empty.model.buffers():
        buffer.zero_()  # among them are indices, which must not point anywhere
    return empty


def check_gradients(empty: LoadedModel, encoded: Encoded, method: Method) -> None:
    """Raises MethodError if the first training example cannot pass through a model of shapes, or
    leaves a trained tensor without a gradient, while it can pass through the base.
    """
    inputs = _first_inputs(encoded)
    try:
        empty.model.eval()(**inputs)
        model = method.inject(empty.model, encoded, empty.head).eval()
    except Exception:  # nothing can be told from shapes: values are needed, or other kernels
        return
    if not next(model.parameters()).is_meta:
        return
    name = type(empty.model).__name__
    if not trainable_parameters(model):
        raise MethodError(f"{method.kind()} left nothing to train in {name}")
    try:
        outputs = model(**inputs)
        next(iter(outputs.values())).float().sum().backward()
    except Exception as error:
        if _needs_values(error):
            return
        raise MethodError(
            f"what the method puts into {name} does not fit there: {type(error).__name__}: "
            f"{first_line(error)}",
            "choose other `method.target_modules`, or LoRA",
        ) from error
    unused = [n for n, p in trainable_parameters(model).items() if p.grad is None]
    if unused:
        raise MethodError(
            f"{name} does not use {quoted(unused, 5)}, which the method would train",
            "choose `method.target_modules` without them",
        )


def _first_inputs(encoded: Encoded) -> dict[str, torch.Tensor]:
    """What the model is given of the first training example, as shapes, without a mask: there are
    architectures that look into its values.
    """
    ids = torch.zeros((1, len(encoded.train.input_ids[0])), dtype=torch.int64, device="meta")
    inputs = {"input_ids": ids}
    if encoded.train.segment_ids is not None:
        inputs["token_type_ids"] = ids
    if encoded.head.task_type == "SEQ_2_SEQ_LM":
        inputs["decoder_input_ids"] = ids
    return inputs


def _needs_values(error: Exception) -> bool:
    """Whether torch or bitsandbytes failed only because shapes have no values."""
    signs = ("meta", "set_data", "data-dependent")
    return isinstance(error, NotImplementedError) or any(sign in str(error) for sign in signs)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers they hold."""
    return sum(parameter.numel() for parameter in parameters)
