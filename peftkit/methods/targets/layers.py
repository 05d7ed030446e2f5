"""Finds the names of the layers that PEFT's tuners can adapt."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from peft import PeftConfig
from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING
from torch import nn
from transformers.pytorch_utils import Conv1D

from peftkit.bases.architectures import NOT_CALLED
from peftkit.bases.quantizing import is_quantized
from peftkit.errors import quoted
from peftkit.methods.peft.types import type_name
from peftkit.methods.targets.targets import ALL_LINEAR


def adaptable_classes(kind: str) -> tuple[type[Any], ...]:
    """Returns the classes of layers that a tuner of PEFT adapts. LoRA adapts all classes that
    PEFT's `LoraModel` lists, IA3 linear layers and convolutions, any other tuner only linear
    layers.
    """
    convolutions = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    more: dict[str, tuple[type[Any], ...]] = {
        "LORA": (nn.Embedding, *convolutions, nn.MultiheadAttention),
        "IA3": convolutions[1:],
    }
    return (nn.Linear, Conv1D, *more.get(kind, ()))


def ends_in(name: str, end: str) -> bool:
    """Whether a full name equals `end`, or ends in `.` and `end`, as PEFT matches names."""
    return name == end or name.endswith(f".{end}")


def is_below(name: str, modules: Iterable[str]) -> bool:
    """Whether `name` is one of `modules`, or names a module inside one of them."""
    return any(name == module or name.startswith(f"{module}.") for module in modules)


def last_names(names: Iterable[str]) -> list[str]:
    """Returns the last parts of dotted names, sorted and without numbers."""
    last = {name.rsplit(".", 1)[-1] for name in names}
    return sorted(name for name in last if name and not name.isdigit())


def linear_names(model: nn.Module, head: tuple[str, ...], kind: str = "LORA") -> list[str]:
    """Returns full names of the layers that `all-linear` takes: all linear layers except the head,
    the output layer, and layers that the tuner cannot adapt in this architecture.
    """
    out = left_out(model, head, kind)
    return [n for n in _all_linear(model, head) if n.rsplit(".", 1)[-1] not in out]


def _all_linear(model: nn.Module, head: tuple[str, ...]) -> list[str]:
    output = model.get_output_embeddings()  # type: ignore[operator]
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not output
        and not is_below(name, head)
    ]


def left_out(model: nn.Module, head: tuple[str, ...], kind: str = "LORA") -> list[str]:
    """Returns the last parts of the names of linear layers that a tuner cannot adapt in this model:
    PEFT refuses them, the model does not call them, or their output is not a matrix product.
    """
    config: Any = model.config
    linear = _all_linear(model, head)
    out = {*NOT_CALLED.get(config.model_type, ())}
    out |= {name for name in last_names(linear) if _refused_by_peft(model, name, kind)}
    out |= {n.rsplit(".", 1)[-1] for n in linear if not _gives_product(model.get_submodule(n))}
    return sorted(out.intersection(last_names(linear)))


def _gives_product(layer: Any) -> bool:
    """Whether a linear layer returns one tensor of shape (..., out); a router does not."""
    if type(layer).forward in (nn.Linear.forward, Conv1D.forward) or is_quantized(layer):
        return True
    try:
        with torch.no_grad():
            out = layer(layer.weight.new_zeros((1, 1, layer.in_features)))
    except Exception:  # its input is not vectors
        return False
    return isinstance(out, torch.Tensor) and out.shape == (1, 1, layer.out_features)


def _refused_by_peft(model: nn.Module, name: str, kind: str) -> bool:
    """Whether PEFT refuses to adapt layers with this name in this model, as it does in Mamba."""
    kinds = {type_name(key): key for key in PEFT_TYPE_TO_TUNER_MAPPING}
    key: Any = kinds.get(kind)
    check = getattr(PEFT_TYPE_TO_TUNER_MAPPING.get(key), "_check_target_module_compatiblity", None)
    if check is None:
        return False
    try:
        check(None, PeftConfig(peft_type=key), model, name)
    except ValueError:
        return True
    return False


def excluded_modules(
    model: nn.Module, wanted: str | Sequence[str], head: tuple[str, ...], kind: str = "LORA"
) -> list[str] | None:
    """Returns PEFT's `exclude_modules`: the head, and the layers that `all-linear` leaves out."""
    out = left_out(model, head, kind) if wanted == ALL_LINEAR else []
    return [*head, *out] or None


def note_on_left_out(
    model: nn.Module, wanted: str | Sequence[str], head: tuple[str, ...], kind: str = "LORA"
) -> tuple[str, ...]:
    """Returns a note if `all-linear` leaves out linear layers."""
    out = left_out(model, head, kind) if wanted == ALL_LINEAR else []
    if not out:
        return ()
    return (
        f"`{ALL_LINEAR}` leaves out {quoted(out)}, which {type(model).__name__} uses in a way that "
        f"cannot be adapted, and takes {quoted(last_names(linear_names(model, head, kind)))}",
    )
