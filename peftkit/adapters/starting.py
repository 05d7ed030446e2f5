"""Training that goes on from an adapter that was saved before, of our own or of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from peftkit.adapters.loading import check_base, check_files
from peftkit.adapters.record import NAME, Record
from peftkit.bases.added_tokens import restore_added_tokens
from peftkit.bases.opening import OpenedBase
from peftkit.errors import AdapterError, first_line
from peftkit.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A saved adapter to go on from."""

    folder: Path
    record: Record | None
    """None for an adapter that peftkit did not save, of which the base cannot be told."""


def find_start(recipe: Recipe) -> Start | None:
    """The adapter that a recipe starts from, its files compared with its record.

    Raises:
        AdapterError: there is none, or a file was changed.
    """
    if not recipe.start_from:
        return None
    path = Path(recipe.start_from).expanduser()
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if not folder.is_dir():
        folder = _from_hub(recipe.start_from)
    if not (folder / NAME).is_file():
        if not (folder / "adapter_config.json").is_file():
            raise AdapterError(
                f"`start_from`: `{folder}` holds no adapter",
                "give a run folder, or a folder with adapter_config.json",
            )
        return Start(folder, None)
    record = Record.read(folder)
    check_files(folder, record)
    return Start(folder, record)


def restore_start(model: nn.Module, start: Start, recipe: Recipe, base: OpenedBase) -> None:
    """Puts the adapter's tensors into a model into which the method was injected.

    Raises:
        AdapterError: they do not fit, or belong to another base.
    """
    if start.record is not None:
        check_base(base, start.record)
    recipe.method.restore(model, start.folder)
    restore_added_tokens(model, start.folder)


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors"]))
    except Exception as error:  # the Hub's client raises many kinds
        raise AdapterError(
            f"`start_from` is `{name}`, which is no folder, and the Hub does not give it: "
            f"{first_line(error)}",
            "give a run folder such as `runs/<name>`, or check the id and the network",
        ) from error
