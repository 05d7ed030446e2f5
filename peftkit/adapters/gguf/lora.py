"""A LoRA as a GGUF file, which llama.cpp puts beside its base (`--lora`), as Ollama (`ADAPTER`).

    llama.cpp:  W x + (alpha / r) B A x        one alpha for the file, r from each tensor

Where layers are scaled otherwise (rsLoRA, `rank_pattern`, `alpha_pattern`, AdaLoRA), B takes the
difference:

    B' = B s r / alpha                         s: PEFT's scale of the layer
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from peftkit.adapters.gguf.families import Layout
from peftkit.adapters.gguf.reading import check_fields, compare, read_gguf
from peftkit.adapters.gguf.writing import write_gguf
from peftkit.adapters.inspecting import WEIGHTS
from peftkit.bases.added_tokens import WEIGHTS as ADDED_TOKENS
from peftkit.bases.loading import empty_model
from peftkit.bases.opening import OpenedBase
from peftkit.data.encoded import Head
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft_layout import CHANGE_THE_BASE, WITHOUT_EFFECT, inject_peft, lora_layers

EXPRESSED = {
    "alpha_pattern", "beta1", "beta2", "bias", "deltaT", "fan_in_fan_out", "init_r", "lora_alpha",
    "orth_reg_weight", "peft_type", "qalora_group_size", "r", "rank_pattern", "target_r", "tfinal",
    "tinit", "total_step", "use_rslora",
}  # fmt: skip
"""Fields of PEFT's configurations that a GGUF LoRA can follow, or that matter in training only; any
other that is set changes what is computed."""
PREFIX = "base_model.model."
MERGED = "`--to gguf`, or `peftkit merge`, folds it into the weights instead"
LORA_ONLY = "a GGUF adapter holds nothing but A and B of linear layers"
ROUNDING = 1e-6
"""Relative error of scaling B in float32."""


@dataclass(frozen=True)
class Scaled:
    """One layer's update, scale * b @ a, in transformers' order of rows."""

    a: npt.NDArray[np.float32]
    """(r, in)."""
    b: npt.NDArray[np.float32]
    """(out, r), as it was saved."""
    scale: float

    @property
    def alpha(self) -> float:
        """What llama.cpp has to divide by r to get the scale."""
        return self.scale * float(self.a.shape[0])


@dataclass(frozen=True)
class LoraFile:
    """What is to be in a GGUF LoRA file."""

    layout: Layout
    layers: dict[str, Scaled]
    """GGUF's name of a layer -> its update."""
    alpha: float
    """The file's; that of most layers, whose B is written as it is."""


def check_expressible(config: Mapping[str, Any], folder: Path) -> None:
    """Raises AdapterError unless a GGUF LoRA can hold an adapter with these settings.

    Args:
        config: adapter_config.json; empty for methods that have none.
        folder: of the adapter.
    """
    kind = config.get("peft_type") or "one of peftkit's own methods"
    if kind not in ("LORA", "ADALORA"):
        raise AdapterError(
            f"the adapter is {kind}, and a GGUF adapter holds LoRA (LORA, ADALORA) only", MERGED
        )
    if config.get("bias", "none") != "none":
        raise AdapterError(
            f"it trains biases (`bias` is `{config['bias']}`), and {LORA_ONLY}", MERGED
        )
    if config.get("modules_to_save"):
        raise AdapterError(
            f"it trains {quoted(config['modules_to_save'])} whole (`modules_to_save`), and "
            f"{LORA_ONLY}",
            MERGED,
        )
    if (folder / ADDED_TOKENS).is_file():
        raise AdapterError(
            "it has embeddings of tokens that were added to the vocabulary, and the base's GGUF "
            "file has no rows for them",
            "`peftkit merge` writes a model with its tokenizer",
        )
    start = str(config.get("init_lora_weights")).lower()
    if start.startswith(CHANGE_THE_BASE):
        raise AdapterError(
            f"its start, `{start}`, changed the base, and a GGUF LoRA is put beside the base as "
            "it is",
            "convert it with PEFT's `path_initial_model_for_weight_conversion`",
        )
    other = [n for n in config if config[n] and n not in EXPRESSED and n not in WITHOUT_EFFECT]
    if other:
        raise AdapterError(
            f"{quoted(sorted(other))} is set in its settings, and {LORA_ONLY}", MERGED
        )


def read_lora(
    folder: Path, config: Mapping[str, Any], base: OpenedBase, layout: Layout
) -> LoraFile:
    """The updates of an adapter, as PEFT would scale them; no weights of the base are read.

    Raises:
        AdapterError: a tensor of it has no place in a GGUF file.
    """
    head = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
    layers = _peft_layers(empty_model(base, head).model, config)
    tensors = {name: t.float().numpy() for name, t in load_file(folder / WEIGHTS).items()}
    found: dict[str, Scaled] = {}
    for module, layer in layers.items():
        name = _place(module, layout, base)
        parts = {
            part: tensors.pop(f"{PREFIX}{module}.{part}", None)
            for part in ("lora_A.weight", "lora_B.weight", "lora_A", "lora_B", "lora_E")
        }
        a = parts["lora_A.weight"] if parts["lora_A"] is None else parts["lora_A"]
        b = parts["lora_B.weight"] if parts["lora_B"] is None else parts["lora_B"]
        if a is None or b is None:
            raise AdapterError(f"the adapter has no tensors for `{module}`", "copy it again")
        scale = float(layer.scaling["default"])
        if parts["lora_E"] is not None:
            b = b * parts["lora_E"].reshape(1, -1)  # B diag(E)
            scale /= layer.r["default"] + 1e-5  # as AdaLoRA does in PEFT
        if a.shape[0]:  # AdaLoRA has given every rank of it away
            found[name] = Scaled(a, b, scale)
    if tensors:
        raise AdapterError(f"it holds {quoted(sorted(tensors), 3)}, and {LORA_ONLY}", MERGED)
    if not found or any(layer.scale == 0 for layer in found.values()):
        raise AdapterError("its scale is 0 (`lora_alpha`), so that it changes nothing")
    return LoraFile(layout, found, statistics.mode(layer.alpha for layer in found.values()))


def _peft_layers(model: torch.nn.Module, config: Mapping[str, Any]) -> dict[str, Any]:
    """Name in the base -> PEFT's LoRA layer without values: it knows scales and patterns."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config["peft_type"])]
    unused = {"peft_type", "base_model_name_or_path"}
    unused |= {"r"} if config["peft_type"] == "ADALORA" else set()
    known = {n: v for n, v in config.items() if n in kind.__dataclass_fields__ and n not in unused}
    return lora_layers(inject_peft(model, kind(**{**known, "init_lora_weights": True})))


def _place(module: str, layout: Layout, base: OpenedBase) -> str:
    name = layout.name(module)
    if not name or name == "token_embd":
        raise AdapterError(f"it adapts `{module}`, which a GGUF adapter cannot", MERGED)
    if name == "output" and base.config.tie_word_embeddings:
        raise AdapterError(
            f"it adapts `{module}`, which the base's GGUF file does not have apart from the "
            "embedding",
            MERGED,
        )
    return name


def write_lora(file: Path, lora: LoraFile, kind: str) -> None:
    """Writes a GGUF LoRA file.

    Args:
        kind: `f32` or `f16`.
    """
    tensors = {}
    for name, layer in lora.layers.items():
        same = layer.alpha == lora.alpha
        b = layer.b if same else (layer.b * (layer.alpha / lora.alpha)).astype(np.float32)
        tensors[f"{name}.weight.lora_a"] = np.ascontiguousarray(layer.a)
        tensors[f"{name}.weight.lora_b"] = np.ascontiguousarray(lora.layout.ordered(name, b))
    write_gguf(file, lora.layout.family.architecture, _fields(lora), tensors, kind)


def check_lora(file: Path, lora: LoraFile) -> float:
    """Compares a file with the adapter, as llama.cpp will scale it and order its rows.

    Returns:
        The largest difference of a tensor, relative to its largest number.

    Raises:
        AdapterError: it is not this adapter.
    """
    found = read_gguf(file)
    expected = {f"{name}.weight.lora_{part}" for name in lora.layers for part in "ab"}
    if other := sorted(found.stored.keys() ^ expected):
        raise AdapterError(
            f"the tensors that were written are not the adapter's: {quoted(other, 3)}"
        )
    architecture = {"general.architecture": lora.layout.family.architecture}
    check_fields(found.fields, architecture | _fields(lora))
    largest = 0.0
    for name, layer in lora.layers.items():
        tensor = f"{name}.weight.lora_"
        rank = found.values(f"{tensor}b").shape[-1]
        b = layer.b * (layer.scale / (found.fields["adapter.lora.alpha"] / rank))
        largest = max(
            largest,
            compare("", found, f"{tensor}a", layer.a, lora.layout),
            compare(name, found, f"{tensor}b", b.astype(np.float32), lora.layout, ROUNDING),
        )
    return largest


def _fields(lora: LoraFile) -> dict[str, Any]:
    return {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(lora.alpha),
    }
