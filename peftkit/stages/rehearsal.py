"""Injects a method into a model of shapes, so that what cannot work is known without weights."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.architectures import trained_share
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.loading import empty_model
from peftkit.bases.opened import OpenedBase
from peftkit.bases.quantizing import (
    ANOTHER,
    check_quantized,
    count_quantized,
    note_on_quantized,
    quantized_empty,
)
from peftkit.bases.stored_weights import uncalled_layers
from peftkit.data.encoded import Encoded
from peftkit.errors import BaseModelError, MethodError, first_line, quoted
from peftkit.methods.method import Method, trainable_parameters
from peftkit.methods.targets.layers import last_names, linear_names
from peftkit.recipe import Training


@dataclass(frozen=True)
class Rehearsal:
    """What a method comes to in a base, as far as shapes tell."""

    trainable_parameters: int
    total_parameters: int
    trained_share: float
    """Share of the base's blocks that gradients pass through."""
    notes: tuple[str, ...] = ()
    """What a person should know before training."""


def rehearse(
    base: OpenedBase,
    encoded: Encoded,
    method: Method,
    training: Training,
    start: Path | None = None,
) -> Rehearsal:
    """Injects the method into a model of shapes without values.

    Args:
        start: folder of an adapter that must fit into it.

    Raises:
        MethodError: the architecture does not have what the method needs.
        AdapterError: the adapter to start from is of another method, or has other settings.
        BaseModelError: the architecture cannot serve the task, or not as the training wants it, or
            less than half of it would be quantized.
    """
    empty = empty_model(base, encoded.head, training.dropout)
    total = count(empty.model.parameters())
    if training.gradient_checkpointing and not empty.model.supports_gradient_checkpointing:
        raise BaseModelError(
            f"{type(empty.model).__name__} cannot compute its activations again",
            "leave `training.gradient_checkpointing` out",
        )
    shapes, notes = empty_model(base, encoded.head), [*method.notes(empty.model, empty.head)]
    if base.spec.quantization != "none":
        shapes = quantized_empty(base, shapes)
        found = count_quantized(shapes.model, shapes.head)
        check_quantized(base, shapes.model, found)
        _check_layers_are_called(base, encoded, shapes.model, empty.model)
        notes.append(note_on_quantized(base, shapes.model, found))
    model = _inject_into_shapes(shapes, base, encoded, method)
    if start is not None and next(model.parameters()).is_meta:
        method.restore(model, start)
    train_added_tokens(model, base.added_ids)
    trainable = count(trainable_parameters(model).values())
    check_gradients(empty, encoded, method)
    return Rehearsal(trainable, total, trained_share(model), tuple(filter(None, notes)))


def _check_layers_are_called(
    base: OpenedBase, encoded: Encoded, quantized: nn.Module, plain: nn.Module
) -> None:
    """Raises BaseModelError if the architecture computes with a weight that is stored in 4 or 8
    bits, instead of calling its layer.
    """
    inputs = _first_inputs(encoded)
    if not (layers := uncalled_layers(quantized, inputs)):
        return
    try:
        with torch.no_grad():
            plain.eval()(**inputs)
    except Exception:  # nothing can be told from shapes: values are needed, or other kernels
        return
    raise BaseModelError(
        f"{type(plain).__name__} computes with the weight of `{layers[0]}` itself, which it cannot "
        f"where that is stored as {base.spec.quantization}",
        ANOTHER,
    )


def _inject_into_shapes(
    shapes: LoadedModel, base: OpenedBase, encoded: Encoded, method: Method
) -> nn.Module:
    """The model with the method in it, in the truest surroundings that need no weights: as it is,
    without quantized layers, or with values that mean nothing, in memory that is not touched.
    """
    kinds: list[Callable[[], LoadedModel]] = [
        lambda: shapes,
        lambda: _with_meaningless_values(empty_model(base, encoded.head)),
    ]
    if base.spec.quantization != "none":
        kinds.insert(1, lambda: empty_model(base, encoded.head))
    failed: RuntimeError | None = None
    for make in kinds:
        made = make()
        try:
            return method.inject(made.model, encoded, made.head)
        except RuntimeError as error:
            failed = error
            if not _needs_values(error):
                break
    raise MethodError(
        f"{method.kind()} cannot be put into `{base.name}`: {failed}", method.instead()
    ) from failed


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
    linear = last_names(linear_names(empty.model, empty.head))
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
        output = next(iter(model(**inputs).values()))
        if output.requires_grad:  # else it uses nothing of what is trained
            output.float().sum().backward()
    except Exception as error:
        if _needs_values(error):
            return
        raise MethodError(
            f"what the method puts into {name} does not fit there: {type(error).__name__}: "
            f"{first_line(error)}",
            method.instead(),
        ) from error
    unused = [n for n, p in trainable_parameters(model).items() if p.grad is None]
    if unused:
        raise MethodError(
            f"{name} does not use {quoted(unused, 5)}, which the method would train",
            _without(model, unused, linear) or method.instead(),
        )


def _without(model: nn.Module, unused: list[str], linear: list[str]) -> str:
    """The hint to name other layers where those that are adapted are not used; empty where no
    layers are.

    Args:
        linear: last names of the model's linear layers.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    used = [n for n in layers if not any(parameter.startswith(f"{n}.") for parameter in unused)]
    last = set(last_names(used) or linear) - {*last_names(n for n in layers if n not in used)}
    return f"adapt layers that it uses: {quoted(sorted(last))}" if layers and last else ""


def _first_inputs(encoded: Encoded) -> dict[str, torch.Tensor]:
    """What the model is given of the first training example, as shapes, without a mask: there are
    architectures that look into its values.
    """
    ids = torch.zeros((1, len(encoded.train.input_ids[0])), dtype=torch.int64, device="meta")
    return dict.fromkeys(encoded.train.inputs, ids)


def _needs_values(error: Exception) -> bool:
    """Whether torch or bitsandbytes failed only because shapes have no values."""
    signs = ("meta", "set_data", "data-dependent")
    return isinstance(error, NotImplementedError) or any(sign in str(error) for sign in signs)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """How many numbers they hold."""
    return sum(parameter.numel() for parameter in parameters)
