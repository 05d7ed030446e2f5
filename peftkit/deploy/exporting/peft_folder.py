"""Writes a LoRA for other loaders of PEFT's format: one rank, one scale, explicit layer names.

    scale * B A  =  s * [B scale / s, 0] [A; 0]         padded with zeros to one rank

vLLM and others read only `r`, `lora_alpha` and the tensors; they ignore fields such as
`rank_pattern` and `alpha_pattern`. So these fields are applied to the tensors here.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file

from peftkit.adapters.inspection.digests import RECORD, WEIGHTS
from peftkit.bases.added_tokens import WEIGHTS as ADDED_TOKENS
from peftkit.data.head import Head
from peftkit.deploy.lora_updates import (
    EXPANDED,
    MERGE,
    PREFIX,
    ROUNDING,
    Update,
    most_common,
    why_no_plain_lora,
)
from peftkit.errors import AdapterError
from peftkit.methods.peft.adapter_config import CONFIG, AdapterConfig, read_config

Saved = tuple[Mapping[str, Update], Mapping[str, torch.Tensor]]
"""Updates by layer and other tensors by name, as `read_updates` returns them."""
VLLM_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""Values that vLLM accepts for `--max-lora-rank`."""


def check_for_peft(config: AdapterConfig, folder: Path, head: Head) -> None:
    """Raises AdapterError unless PEFT loads the adapter without peftkit.

    Args:
        config: content of adapter_config.json; empty for methods that write none.
    """
    if head.pooling:
        raise AdapterError(
            "the adapter's classifier reads the hidden states themselves "
            f'(`task.pooling="{head.pooling}"`), and transformers has no model class with such a '
            "classifier",
            "load it with `peftkit.load`, or `peftkit merge` it if its method can be merged",
        )
    if not config:
        raise AdapterError("the run trained weights of the base itself, not a PEFT adapter", MERGE)
    if config.kind == "BOTTLENECK":
        raise AdapterError(
            "PEFT alone has no bottleneck adapters",
            "load the adapter folder with PEFT after `import peftkit.peft_plugin`",
        )
    if (folder / ADDED_TOKENS).is_file():
        raise AdapterError(
            "the adapter has embeddings of tokens that were added to the vocabulary, which PEFT "
            "alone does not load",
            f"{MERGE}, or load them with the lines in the adapter's README.md",
        )


def check_for_vllm(config: AdapterConfig, folder: Path, head: Head) -> None:
    """Raises AdapterError unless vLLM can serve the adapter on its base."""
    check_for_peft(config, folder, head)
    if not head.goes_on:
        raise AdapterError(
            "vLLM takes adapters of models that write text, and this model has a head of its own",
            MERGE,
        )
    if reason := why_no_plain_lora(config, folder):
        raise AdapterError(f"{reason}, and vLLM takes only A and B of linear layers", MERGE)


def rank_for_vllm(updates: Mapping[str, Update]) -> int:
    """The `--max-lora-rank` that an adapter needs.

    Raises:
        AdapterError: vLLM cannot adapt one of the layers, or the rank is too large for vLLM.
    """
    outputs = [name for name in updates if name.rsplit(".", 1)[-1] in ("lm_head", "embed_out")]
    if outputs:
        raise AdapterError(f"the adapter changes `{outputs[0]}`, which vLLM cannot adapt", MERGE)
    return vllm_rank(max(len(update.a) for update in updates.values()))


def vllm_rank(rank: int) -> int:
    """The smallest of `VLLM_RANKS` that is at least `rank`.

    Raises:
        AdapterError: the rank is larger than all of `VLLM_RANKS`.
    """
    for allowed in VLLM_RANKS:
        if rank <= allowed:
            return allowed
    raise AdapterError(
        f"the adapter's rank is {rank}, and vLLM takes {VLLM_RANKS[-1]} at most", MERGE
    )


def write_expanded(
    saved: Saved, config: AdapterConfig, model: torch.nn.Module, output: Path
) -> tuple[int, float]:
    """Writes a LoRA with one rank, one scale and explicit names into a folder.

    Args:
        config: content of the LoRA's adapter_config.json.
        model: the base; only the names of its layers are used.

    Returns:
        The written rank and `lora_alpha`.
    """
    updates, others = saved
    rank = max(len(update.a) for update in updates.values())
    scale = most_common(update.scale for update in updates.values())
    tensors = {name: tensor.contiguous() for name, tensor in others.items()}
    for module, update in updates.items():
        for part, values in zip("AB", _padded(update, rank, scale), strict=True):
            tensors[f"{PREFIX}{module}.lora_{part}.weight"] = torch.from_numpy(values)
    save_file(tensors, output / WEIGHTS, metadata={"format": "pt"})
    product = scale * rank
    alpha = int(product) if product == int(product) else product
    written = {
        **{name: value for name, value in config.items() if name not in EXPANDED},
        "peft_type": "LORA",
        "bias": "none",
        "fan_in_fan_out": config.get("fan_in_fan_out", False),
        "inference_mode": True,
        "init_lora_weights": True,
        "lora_alpha": alpha,
        "r": rank,
        "target_modules": _names(updates, model),
        "exclude_modules": None,
        "layers_to_transform": None,
        "layers_pattern": None,
    }
    (output / CONFIG).write_text(json.dumps(written, indent=2, sort_keys=True) + "\n")
    return rank, alpha


def _padded(update: Update, rank: int, scale: float) -> tuple[Any, Any]:
    """A and B of an update, padded with zeros to `rank`; B is rescaled to `scale`."""
    missing = rank - len(update.a)
    b = update.b if update.scale == scale else update.b * np.float32(update.scale / scale)
    a = np.pad(update.a, ((0, missing), (0, 0)))
    return np.ascontiguousarray(a), np.ascontiguousarray(np.pad(b, ((0, 0), (0, missing))))


def _names(adapted: Iterable[str], model: torch.nn.Module) -> list[str]:
    """The value of `target_modules`: last parts of the adapted layers' names, or the full names if
    the last parts also match other layers.
    """
    wanted = set(adapted)
    leaves = {name.rsplit(".", 1)[-1] for name in wanted}
    matched = {name for name, _ in model.named_modules() if name.rsplit(".", 1)[-1] in leaves}
    return sorted(leaves if matched == wanted else wanted)


def copy_peft_files(folder: Path, output: Path, config: AdapterConfig) -> None:
    """Copies adapter_model.safetensors and adapter_config.json.

    Args:
        config: content of adapter_config.json, including settings that the user added.
    """
    shutil.copyfile(folder / WEIGHTS, output / WEIGHTS)
    if config == read_config(folder):
        shutil.copyfile(folder / CONFIG, output / CONFIG)
    else:
        (output / CONFIG).write_text(json.dumps(dict(config), indent=2, sort_keys=True) + "\n")


def copy_tokenizer(folder: Path, output: Path) -> None:
    """Copies tokenizer, chat template and generation settings; not peftkit's own files."""
    for file in folder.iterdir():
        if file.suffix in (".json", ".jinja", ".model", ".txt") and file.name not in (
            CONFIG,
            RECORD,
        ):
            shutil.copyfile(file, output / file.name)


def check_expanded(saved: Saved, output: Path) -> float:
    """Compares the updates in a written folder, scaled by `lora_alpha / r`, with the adapter's
    updates.

    Returns:
        The largest difference in a layer's update, relative to the update's largest number.

    Raises:
        AdapterError: an update differs, or is missing.
    """
    updates, others = saved
    written = json.loads((output / CONFIG).read_text())
    tensors = load_file(output / WEIGHTS)
    scale, largest = written["lora_alpha"] / written["r"], 0.0
    for module, update in updates.items():
        a = tensors.pop(f"{PREFIX}{module}.lora_A.weight").double()
        b = tensors.pop(f"{PREFIX}{module}.lora_B.weight").double()
        expected = (
            update.scale * torch.from_numpy(update.b).double() @ torch.from_numpy(update.a).double()
        )
        size = max(float(expected.abs().max()), 1e-30)
        largest = max(largest, float((scale * b @ a - expected).abs().max()) / size)
    same = tensors.keys() == others.keys() and all(
        torch.equal(tensors[name], others[name]) for name in others
    )
    if not same or not largest <= ROUNDING:
        raise AdapterError(
            f"the written updates differ from the adapter's updates by {largest:.1e}"
        )
    return largest
