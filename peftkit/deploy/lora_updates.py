"""Reads the update of each layer from a saved LoRA, with the scale that PEFT applies.

W x + scale * B A x
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from safetensors.torch import load_file

from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.inspection.headers import Stored, read_header
from peftkit.bases.added_tokens import WEIGHTS as ADDED_TOKENS
from peftkit.bases.loading import empty_model
from peftkit.bases.opened import OpenedBase
from peftkit.data.head import Head
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.injection import inject_peft
from peftkit.methods.peft.layers import lora_layers
from peftkit.methods.peft.layout import WITHOUT_EFFECT
from peftkit.methods.peft.types import ADAPTER_NAME

PREFIX = "base_model.model."
PARTS = ("lora_A.weight", "lora_B.weight", "lora_A", "lora_B", "lora_E")
"""Endings of the tensors' names in LoRA and AdaLoRA files."""
EXPANDED = {
    "alpha_pattern", "beta1", "beta2", "bias", "deltaT", "fan_in_fan_out", "init_r", "lora_alpha",
    "orth_reg_weight", "peft_type", "qalora_group_size", "r", "rank_pattern", "target_r", "tfinal",
    "tinit", "total_step", "use_rslora",
}  # fmt: skip
"""Fields of PEFT's configurations that `read_updates` applies, or that only training uses. A plain
LoRA sets no other fields, except fields without effect."""
LORA = ("LORA", "ADALORA")
"""PEFT types that `read_updates` reads."""
OWN = "one of peftkit's own methods"
MERGE = "fold it into the weights with `peftkit merge`"
ROUNDING = 1e-6
"""Largest allowed relative error from scaling B in float32."""


@dataclass(frozen=True)
class Update:
    """One layer's update, scale * b @ a."""

    a: npt.NDArray[np.float32]
    """LoRA's A, (r, in)."""
    b: npt.NDArray[np.float32]
    """LoRA's B, (out, r); for AdaLoRA, B diag(E)."""
    scale: float

    @property
    def alpha(self) -> float:
        """The `lora_alpha` that gives this scale at this rank."""
        return self.scale * len(self.a)


def why_no_plain_lora(config: AdapterConfig, folder: Path, head: bool = False) -> str:
    """Why an adapter is not a plain LoRA (A and B of linear layers); empty if it is one.

    Args:
        config: content of adapter_config.json; empty for methods that write none.
        folder: folder of the adapter.
        head: whether a plain LoRA is allowed to have a trained head (`modules_to_save`).
    """
    kind, bias = config.kind, config.get("bias", "none")
    other = [n for n in config if config[n] and n not in EXPANDED and n not in WITHOUT_EFFECT]
    whole = [] if head else config.texts("modules_to_save")
    reasons = {
        f"the method is {kind or OWN}": kind not in LORA,
        "the method is DoRA": config.get("use_dora"),
        f"the adapter trains biases (`bias` is `{bias}`)": bias != "none",
        f"the adapter trains {quoted(whole)} whole (`modules_to_save`)": whole,
        "the adapter has embeddings of tokens that were added to the vocabulary": (
            (folder / ADDED_TOKENS).is_file()
        ),
        f"{quoted(sorted(other))} is set in the adapter's settings": other,
    }
    if true_ones := [reason for reason, holds in reasons.items() if holds]:
        return true_ones[0]
    header = read_header(folder / WEIGHTS)
    odd = [
        n for n, stored in header.items() if not _is_part(n, stored) and ("lora_" in n or not head)
    ]
    return f"the adapter holds {quoted(sorted(odd), 3)}" if odd else ""


def _is_part(name: str, stored: Stored) -> bool:
    return name.endswith(PARTS) and len(stored.shape) == 2


def most_common(values: Iterable[float]) -> float:
    """The most common value, not counting 0."""
    return statistics.mode(value for value in values if value)


def read_updates(
    folder: Path, config: AdapterConfig, base: OpenedBase, head: Head
) -> tuple[dict[str, Update], dict[str, torch.Tensor]]:
    """Reads the tensors of a LoRA or AdaLoRA adapter. Reads no weights of the base.

    Args:
        config: content of adapter_config.json.

    Returns:
        The layers' updates, by the layers' names in the base; and all other tensors, by name.

    Raises:
        AdapterError: tensors are missing, an adapted layer is not linear, or every scale is 0.
    """
    layers = _peft_layers(empty_model(base, head).model, config)
    tensors = load_file(folder / WEIGHTS)
    updates: dict[str, Update] = {}
    for module, layer in layers.items():
        parts = {part: tensors.pop(f"{PREFIX}{module}.{part}", None) for part in PARTS}
        a = parts["lora_A.weight"] if parts["lora_A"] is None else parts["lora_A"]
        b = parts["lora_B.weight"] if parts["lora_B"] is None else parts["lora_B"]
        if a is None or b is None:
            raise AdapterError(f"the adapter has no tensors for `{module}`", "copy it again")
        scale, b = float(layer.scaling[ADAPTER_NAME]), b.float()
        if parts["lora_E"] is not None:
            b = b * parts["lora_E"].float().reshape(1, -1)  # B diag(E)
            scale /= layer.r[ADAPTER_NAME] + 1e-5  # as AdaLoRA does in PEFT
        if a.shape[0]:  # 0 where AdaLoRA pruned every rank
            updates[module] = Update(a.float().numpy(), b.numpy(), scale)
    if not any(update.scale for update in updates.values()):
        raise AdapterError("the adapter's scale is 0 (`lora_alpha`), so it changes nothing")
    return updates, tensors


def _peft_layers(model: torch.nn.Module, config: AdapterConfig) -> Mapping[str, Any]:
    """Name of a layer in the base -> PEFT's LoRA layer, with scale and rank but no weights."""
    from peft import PEFT_TYPE_TO_CONFIG_MAPPING
    from peft.utils import PeftType

    kind: Any = PEFT_TYPE_TO_CONFIG_MAPPING[PeftType(config.kind)]
    unused = {"peft_type", "base_model_name_or_path"}
    unused |= {"r"} if config.kind == "ADALORA" else set()
    known = {n: v for n, v in config.items() if n in kind.__dataclass_fields__ and n not in unused}
    return lora_layers(inject_peft(model, kind(**{**known, "init_lora_weights": True})))
