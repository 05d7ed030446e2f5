"""Writes a LoRA as a GGUF file, which llama.cpp (`--lora`) and Ollama (`ADAPTER`) add to its base.

    llama.cpp:  W x + (alpha / r) B A x        one alpha for the file, r from each tensor

If a layer has another scale (rsLoRA, `rank_pattern`, `alpha_pattern`, AdaLoRA), its B is multiplied
by the ratio of the scales:

    B' = B s r / alpha                         s: PEFT's scale of the layer
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from peftkit.bases.opened import OpenedBase
from peftkit.data.head import Head
from peftkit.deploy.exporting.gguf.families import Layout
from peftkit.deploy.exporting.gguf.reading import check_fields, compare, read_gguf
from peftkit.deploy.exporting.gguf.writing import PlainValue, write_gguf
from peftkit.deploy.lora_updates import (
    ROUNDING,
    Update,
    most_common,
    read_updates,
    why_no_plain_lora,
)
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig

MERGED = "fold it into the weights with `--to gguf` or `peftkit merge`"
LORA_ONLY = "a GGUF adapter holds only A and B of linear layers"


@dataclass(frozen=True)
class LoraFile:
    """The content of a GGUF LoRA file."""

    layout: Layout
    layers: dict[str, Update]
    """GGUF's name of a layer -> the layer's update."""
    alpha: float
    """The most common alpha of the layers. In layers with another alpha, B is rescaled."""


def check_expressible(config: AdapterConfig, folder: Path) -> None:
    """Raises AdapterError unless a GGUF LoRA can hold the adapter.

    Args:
        config: content of adapter_config.json; empty for methods that write none.
    """
    if reason := why_no_plain_lora(config, folder):
        raise AdapterError(f"{reason}, and {LORA_ONLY}", MERGED)


def read_lora(folder: Path, config: AdapterConfig, base: OpenedBase, layout: Layout) -> LoraFile:
    """Reads each layer's update and names the layer as GGUF does. Loads no weights of the base.

    Raises:
        AdapterError: a GGUF file cannot hold the update of one of the layers.
    """
    head = Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False)
    updates, _ = read_updates(folder, config, base, head)
    layers = {_gguf_name(module, layout, base): update for module, update in updates.items()}
    return LoraFile(layout, layers, most_common(layer.alpha for layer in layers.values()))


def _gguf_name(module: str, layout: Layout, base: OpenedBase) -> str:
    name = layout.name(module)
    if not name:
        raise AdapterError(f"the adapter changes `{module}`, which a GGUF adapter cannot", MERGED)
    if name == "output" and base.config.tie_word_embeddings:
        raise AdapterError(
            f"the adapter changes `{module}`, which shares its weight with the embedding in the "
            "base's GGUF file",
            MERGED,
        )
    return name


def write_lora(file: Path, lora: LoraFile, kind: str) -> None:
    """Writes a GGUF LoRA file.

    Args:
        kind: `f32` or `f16`, the number format of A and B.
    """
    tensors = {}
    for name, layer in lora.layers.items():
        same = layer.alpha == lora.alpha
        b = layer.b if same else (layer.b * (layer.alpha / lora.alpha)).astype(np.float32)
        tensors[f"{name}.weight.lora_a"] = np.ascontiguousarray(layer.a)
        tensors[f"{name}.weight.lora_b"] = np.ascontiguousarray(lora.layout.ordered(name, b))
    write_gguf(file, lora.layout.family.architecture, _fields(lora), tensors, kind)


def check_lora(file: Path, lora: LoraFile) -> float:
    """Compares a GGUF LoRA file, read as llama.cpp reads it, with the adapter.

    Returns:
        The largest difference in a tensor, relative to the tensor's largest number.

    Raises:
        AdapterError: the file differs from the adapter.
    """
    written = read_gguf(file)
    expected = {f"{name}.weight.lora_{part}" for name in lora.layers for part in "ab"}
    if other := sorted(written.stored.keys() ^ expected):
        raise AdapterError(
            f"only the file or only the adapter has these tensors: {quoted(other, 3)}"
        )
    architecture = lora.layout.family.architecture
    check_fields(written, {"general.architecture": architecture, **_fields(lora)})
    largest, alpha = 0.0, written.number("adapter.lora.alpha")
    for name, layer in lora.layers.items():
        tensor = f"{name}.weight.lora_"
        rank = written.values(f"{tensor}b").shape[-1]
        b = layer.b * (layer.scale / (alpha / rank))
        largest = max(
            largest,
            compare("", written, f"{tensor}a", layer.a, lora.layout),
            compare(name, written, f"{tensor}b", b.astype(np.float32), lora.layout, ROUNDING),
        )
    return largest


def _fields(lora: LoraFile) -> dict[str, PlainValue]:
    return {
        "general.type": "adapter",
        "adapter.type": "lora",
        "adapter.lora.alpha": float(lora.alpha),
    }
