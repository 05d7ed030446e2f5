"""Writes an adapter folder, and renames it to `adapter` once it loads with the same answers."""

from __future__ import annotations

import json
from pathlib import Path

from accelerate import Accelerator
from torch import nn

from peftkit.adapters.loading import load_proven
from peftkit.adapters.record import Record
from peftkit.atomic import fsync_files
from peftkit.bases.added_tokens import save_added_tokens
from peftkit.bases.loading import generation_config
from peftkit.bases.opened import OpenedBase
from peftkit.bases.padding import save_tokenizer
from peftkit.data.head import Head
from peftkit.data.packaged import sha256_of
from peftkit.methods.method import Method
from peftkit.recipe import Recipe

PARTIAL = "adapter.unchecked"


def write_weights(
    model: nn.Module, method: Method, base: OpenedBase, head: Head, run_folder: Path
) -> tuple[Path, dict[str, str]]:
    """Saves the trained weights into a folder with a temporary name.

    Returns:
        The folder, and a mapping from the names of its weight files to their SHA-256.
    """
    folder = run_folder / PARTIAL
    folder.mkdir()
    method.save(model, folder)
    save_added_tokens(model, folder)
    whole = (folder / "config.json").is_file()  # a whole model needs no base
    if base.added_ids or whole or head.generation:
        save_tokenizer(base.tokenizer, folder)
    if head.generation:  # without it, transformers would not stop at the end of an answer
        generation_config(head, base.tokenizer.pad_token_id).save_pretrained(folder)
    _name_base(folder, base)
    fsync_files(folder)
    return folder, {file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))}


def check_saved(
    folder: Path, recipe: Recipe, base: OpenedBase, record: Record, accelerator: Accelerator
) -> tuple[Path, float]:
    """Loads base and adapter from disk; renames the folder to `adapter` if answers are the same.

    Returns:
        The renamed folder, and the largest difference from the recorded answers.

    Raises:
        AdapterError: the loaded model differs from the trained one; the folder is not renamed.
    """
    _, difference = load_proven(folder, recipe, base, record, accelerator)
    final = folder.with_name("adapter")
    folder.rename(final)
    return final, difference


def adapter_bytes(folder: Path) -> int:
    """Size of a folder's weight files, in bytes."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def _name_base(folder: Path, base: OpenedBase) -> None:
    """Writes the base's Hub id into adapter_config.json; null for a base that is not from the Hub.

    A local path would be wrong on other machines, and reveal this machine's folders.
    """
    config_file = folder / "adapter_config.json"
    if not config_file.is_file():
        return
    config = json.loads(config_file.read_text())
    config["base_model_name_or_path"] = base.hub_id or None
    config["revision"] = base.revision or None
    config_file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
