"""Quantizes a base with bitsandbytes on loading, counts quantized weights, and dequantizes.

bitsandbytes quantizes layers whose class is exactly `nn.Linear` or `Conv1D`. Subclasses, experts
stored as one tensor, convolutions and parameters outside layers are not quantized.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from peftkit.bases.files import WEIGHT_FILES
from peftkit.bases.loaded_model import Quantized
from peftkit.bases.opened import OpenedBase
from peftkit.bases.packages import require
from peftkit.errors import BaseModelError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from peftkit.bases.loaded_model import LoadedModel

LEAST_SHARE = 0.5
"""Smallest share of quantized weights at which a base counts as quantized."""
ANOTHER = "leave `base.quantization` out, or choose a base of another architecture"


def count_quantized(model: Any, head: tuple[str, ...]) -> Quantized:
    """Counts the quantized weights of a model that is loaded or on the meta device.

    Args:
        head: names of the modules of the task's head.
    """
    import torch

    output = model.get_output_embeddings()
    taken, left, aside = 0, dict[str, tuple[str, int]](), list[str]()
    for name, module in model.named_modules():
        if is_quantized(module):
            taken += module.in_features * module.out_features
            continue
        if isinstance(module, torch.nn.Embedding):
            continue
        of_head = module is output or f"{name}.".startswith(tuple(f"{h}." for h in head))
        apart = of_head or "pooler" in name.split(".")
        leaf = not any(True for _ in module.children())
        for part, parameter in module.named_parameters(recurse=False):
            if parameter.dim() < 2:
                continue
            # a module's name without `.weight` would make bitsandbytes skip its children too
            whole = name if part == "weight" and leaf else f"{name}.{part}".removeprefix(".")
            if apart:
                aside.append(whole)
            else:
                left[whole] = type(module).__name__, parameter.numel()
    return Quantized(taken, left, tuple(aside))


def is_quantized(module: Any) -> bool:
    """Whether a module is a bitsandbytes layer with a weight of 4 or 8 bits, or with a weight
    that is on the meta device.
    """
    import bitsandbytes
    import torch

    kinds: Any = bitsandbytes.nn
    if isinstance(module, kinds.Linear8bitLt):
        return bool(module.weight.is_meta or module.weight.dtype == torch.int8)
    if isinstance(module, kinds.Linear4bit):
        return module.weight.is_meta or getattr(module.weight, "quant_state", None) is not None
    return False


def check_quantized(base: OpenedBase, model: nn.Module, quantized: Quantized) -> None:
    """Raises BaseModelError if less than half of a base is quantized by bitsandbytes, or if a
    prequantized base has no quantized layer.
    """
    if quantized.taken and (base.prequantized or quantized.share >= LEAST_SHARE):
        return
    kind, name = base.spec.quantization, type(model).__name__
    if base.prequantized:
        raise BaseModelError(
            f"the config.json of `{base.name}` says that its weights are quantized to {kind}, but "
            f"none are; the weights are in {quantized.kinds_left()}",
            "take `quantization_config` out of its config.json",
        )
    raise BaseModelError(
        f"`{base.name}` cannot be quantized to {kind}: bitsandbytes quantizes layers whose class "
        f"is exactly nn.Linear or Conv1D, which hold {_percent(quantized.share)} of the weights of "
        f"{name}'s blocks; the rest is in {quantized.kinds_left()}",
        ANOTHER,
    )


def note_on_quantized(base: OpenedBase, model: nn.Module, quantized: Quantized) -> str:
    """A note that names the weights of a base that stay unquantized; empty if there are none."""
    if not quantized.left:
        return ""
    return (
        f"{_percent(quantized.share)} of the weights of {type(model).__name__}'s blocks are "
        f"quantized to {base.spec.quantization}; {quantized.kinds_left()} stay as they are"
    )


def _percent(share: float) -> str:
    """Formats a share, rounded down so that 100 % means all."""
    return f"{math.floor(1000 * share) / 10:g} %"


def quantized_empty(base: OpenedBase, empty: LoadedModel) -> LoadedModel:
    """Puts bitsandbytes layers into a model on the meta device. They show, before weights are
    loaded, which layers a method cannot adapt.
    """
    import torch
    from transformers.quantizers.auto import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(quantization_of(base, torch.float32, empty))
    quantizer.preprocess_model(model=empty.model, device_map={"": "meta"})
    quantizer.postprocess_model(model=empty.model)
    return empty


def quantization_of(base: OpenedBase, dtype: torch.dtype, empty: LoadedModel) -> Any:
    """The `BitsAndBytesConfig` to load a base with.

    Args:
        dtype: dtype of the computation.
        empty: the base's model on the meta device.
    """
    require("bitsandbytes", "a quantized base needs")
    import transformers

    config: Any = transformers.BitsAndBytesConfig
    if base.prequantized:
        settings = base.config.quantization_config
        made = config.from_dict(settings if isinstance(settings, dict) else settings.to_dict())
        made.bnb_4bit_compute_dtype = dtype
        made.llm_int8_skip_modules = _unquantized_in_files(base, empty.model)
        return made
    # None: bitsandbytes skips a language model's head by itself. A pooler without weights in the
    # checkpoint is trained, so poolers stay unquantized
    modules = empty.model.named_modules()
    poolers = [n for n, m in modules if n.endswith(".pooler") and any(True for _ in m.parameters())]
    skipped = [*empty.head, *poolers] if empty.head else None
    if base.spec.quantization == "int8":
        return config(load_in_8bit=True, llm_int8_skip_modules=skipped)
    return config(
        load_in_4bit=True,
        bnb_4bit_quant_type=base.spec.quantization,
        bnb_4bit_use_double_quant=base.spec.double_quant,
        bnb_4bit_compute_dtype=dtype,
        llm_int8_skip_modules=skipped,
    )


def _unquantized_in_files(base: OpenedBase, model: Any) -> list[str]:
    """Names of a prequantized base's linear layers that are unquantized in its files, or missing
    there (a new head, for example). If the files are not downloaded yet, returns the unquantized
    layers that the configuration lists, and the head's modules.
    """
    from safetensors import safe_open
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    files = sorted(base.folder.glob(WEIGHT_FILES[0]))
    if not files:
        settings = base.config.quantization_config
        settings = settings if isinstance(settings, dict) else settings.to_dict()
        return [*(settings.get("llm_int8_skip_modules") or ()), *_head_names(model)]
    keys: set[str] = set()
    for file in files:
        with safe_open(str(file), framework="pt") as opened:
            keys.update(opened.keys())
    marks = (".weight.absmax", ".SCB")  # the scales of 4-bit and 8-bit weights
    stored = {key.removesuffix(mark) for mark in marks for key in keys if key.endswith(mark)}
    trunk = f"{model.base_model_prefix}."
    known = stored | {f"{trunk}{name}" for name in stored}
    known |= {trunk + name.split(".", 1)[-1] for name in stored}  # see `_key_mapping` in loading.py
    return [name for name in linear if name not in known and name.removeprefix(trunk) not in known]


def _head_names(model: Any) -> list[str]:
    return [name for name, _ in model.named_children() if name != model.base_model_prefix]


def settle_quantized(model: Any, dtype: torch.dtype) -> None:
    """Casts unquantized weights to `dtype`, except those that the architecture needs in float32;
    makes 4-bit weights dequantize to `dtype`.
    """
    kept = tuple(model._keep_in_fp32_modules or ())
    for name, parameter in model.named_parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            state.dtype = dtype
        elif parameter.is_floating_point() and not any(p in kept for p in name.split(".")):
            # copy: a few tensors would keep the whole file mapped
            parameter.data = parameter.data.to(dtype, copy=True)


def keep_differentiable(model: Any) -> None:
    """Stops bitsandbytes (0.50) from repacking 4-bit weights at the first evaluation on a CPU with
    AVX512-BF16: no gradients pass through repacked layers, and there is no warning.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def dequantized(model: Any, dtype: torch.dtype) -> Any:
    """The model with every quantized layer replaced by an ordinary one.

    Args:
        dtype: dtype of the new layers; other layers keep theirs.
    """
    from transformers.pytorch_utils import Conv1D

    if not getattr(model, "is_quantized", False):
        return model
    layers = dict(_quantized_layers(model))
    if not layers:  # without a quantized layer, transformers' `dequantize` fails
        model.hf_quantizer.remove_quantization_config(model)
        return model
    for parameter in model.parameters():
        if (state := getattr(parameter, "quant_state", None)) is not None:
            state.dtype = dtype
    model = model.dequantize(dtype=dtype)
    for name, layer in layers.items():
        if issubclass(layer.source_cls, Conv1D):  # transformers makes every layer nn.Linear
            model.set_submodule(name, _conv1d(model.get_submodule(name)))
    return model


def _quantized_layers(model: nn.Module) -> Iterator[tuple[str, Any]]:
    return ((name, module) for name, module in model.named_modules() if is_quantized(module))


def _conv1d(linear: Any) -> nn.Module:
    """Converts a linear layer to GPT-2's `Conv1D`, which has a transposed weight, (in, out)."""
    import torch
    from transformers.pytorch_utils import Conv1D

    kind: Any = Conv1D
    with torch.device("meta"):
        layer = kind(linear.out_features, linear.in_features)
    layer.weight = torch.nn.Parameter(linear.weight.data.T.contiguous())
    layer.bias = linear.bias
    return layer  # type: ignore[no-any-return]
