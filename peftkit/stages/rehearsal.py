"""Injects a method into a model that has shapes but no weights, to find errors before loading."""

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
    """Parameter counts and warnings, found by injecting the method into a model without weights."""

    trainable_parameters: int
    total_parameters: int
    trained_share: float
    """Share of the base's blocks through which gradients pass."""
    notes: tuple[str, ...] = ()
    """Warnings to print before training."""


def rehearse(
    base: OpenedBase,
    encoded: Encoded,
    method: Method,
    training: Training,
    start: Path | None = None,
) -> Rehearsal:
    """Injects the method into a model that has shapes but no weights.

    Args:
        start: folder of the adapter to start from, whose tensors must fit into the model.

    Raises:
        MethodError: the architecture lacks something that the method needs.
        AdapterError: the start adapter has another method or other settings.
        BaseModelError: the architecture does not support the task or the training's settings, or
            less than half of the model would be quantized.
    """
    empty = empty_model(base, encoded.head, training.dropout)
    total = count(empty.model.parameters())
    if training.gradient_checkpointing and not empty.model.supports_gradient_checkpointing:
        raise BaseModelError(
            f"{type(empty.model).__name__} cannot recompute its activations",
            "leave `training.gradient_checkpointing` out",
        )
    shapes, notes = empty_model(base, encoded.head), [*method.notes(empty.model, empty.head)]
    if base.spec.quantization != "none":
        shapes = quantized_empty(base, shapes)
        quantized = count_quantized(shapes.model, shapes.head)
        check_quantized(base, shapes.model, quantized)
        _check_layers_are_called(base, encoded, shapes.model, empty.model)
        notes.append(note_on_quantized(base, shapes.model, quantized))
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
    """Raises BaseModelError if the architecture reads the weight of a quantized layer instead of
    calling the layer: a weight stored in 4 or 8 bits cannot be used in this way.
    """
    inputs = _first_inputs(encoded)
    if not (layers := uncalled_layers(quantized, inputs)):
        return
    try:
        with torch.no_grad():
            plain.eval()(**inputs)
    except Exception:  # the model needs values or other kernels
        return
    raise BaseModelError(
        f"{type(plain).__name__} computes with the weight of `{layers[0]}` itself, which is "
        f"impossible if it is stored as {base.spec.quantization}",
        ANOTHER,
    )


def _inject_into_shapes(
    shapes: LoadedModel, base: OpenedBase, encoded: Encoded, method: Method
) -> nn.Module:
    """Injects the method into the first of three models that works: the base's shapes; the shapes
    without quantized layers, if the base is quantized; the base with uninitialized values.
    """
    kinds: list[Callable[[], LoadedModel]] = [
        lambda: shapes,
        lambda: _with_uninitialized_values(empty_model(base, encoded.head)),
    ]
    if base.spec.quantization != "none":
        kinds.insert(1, lambda: empty_model(base, encoded.head))
    failed: RuntimeError | None = None
    for make in kinds:
        candidate = make()
        try:
            return method.inject(candidate.model, encoded, candidate.head)
        except RuntimeError as error:
            failed = error
            if not _needs_values(error):
                break
    raise MethodError(
        f"{method.kind()} cannot be injected into `{base.name}`: {failed}", method.instead()
    ) from failed


def _with_uninitialized_values(empty: LoadedModel) -> LoadedModel:
    empty.model.to_empty(device="cpu")
    for buffer in empty.model.buffers():
        buffer.zero_()  # some buffers are indices, which must be valid
    return empty


def check_gradients(empty: LoadedModel, encoded: Encoded, method: Method) -> None:
    """Raises MethodError if the method, once injected, fails on the first training example or gives
    a trained tensor no gradient, although the base alone does not fail. Needs only shapes.
    """
    inputs = _first_inputs(encoded)
    linear = last_names(linear_names(empty.model, empty.head))
    try:
        empty.model.eval()(**inputs)
        model = method.inject(empty.model, encoded, empty.head).eval()
    except Exception:  # the model needs values or other kernels
        return
    if not next(model.parameters()).is_meta:
        return
    name = type(empty.model).__name__
    if not trainable_parameters(model):
        raise MethodError(f"{method.kind()} left nothing to train in {name}")
    try:
        output = next(iter(model(**inputs).values()))
        if output.requires_grad:  # False if the output depends on no trained tensor
            output.float().sum().backward()
    except Exception as error:
        if _needs_values(error):
            return
        raise MethodError(
            f"what the method injects into {name} does not fit there: {type(error).__name__}: "
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
    """A hint to adapt layers that the model uses; empty if the method adapts no layers.

    Args:
        linear: last parts of the names of the model's linear layers.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, BaseTunerLayer)]
    used = [n for n in layers if not any(parameter.startswith(f"{n}.") for parameter in unused)]
    last = set(last_names(used) or linear) - {*last_names(n for n in layers if n not in used)}
    return f"adapt layers that it uses: {quoted(sorted(last))}" if layers and last else ""


def _first_inputs(encoded: Encoded) -> dict[str, torch.Tensor]:
    """Shapes of the model's inputs for the first training example. There is no attention mask,
    because some architectures read its values.
    """
    ids = torch.zeros((1, len(encoded.train.input_ids[0])), dtype=torch.int64, device="meta")
    return dict.fromkeys(encoded.train.inputs, ids)


def _needs_values(error: Exception) -> bool:
    """Whether torch or bitsandbytes raised the error because tensors have no values."""
    signs = ("meta", "set_data", "data-dependent")
    return isinstance(error, NotImplementedError) or any(sign in str(error) for sign in signs)


def count(parameters: Iterable[nn.Parameter]) -> int:
    """Total number of elements of the parameters."""
    return sum(parameter.numel() for parameter in parameters)
