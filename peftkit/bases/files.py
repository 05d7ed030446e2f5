"""Finds the files of a base, on this machine or on the Hub.

A base has one of four forms, each of which leads to a local folder: a Hub id (small files are
downloaded first, weights when they are loaded), a local folder, a GGUF file (dequantized once into
a cache), `packaged:NAME`.
"""

from __future__ import annotations

import re
from pathlib import Path

from peftkit.bases.base import Base
from peftkit.bases.dequantized import dequantized
from peftkit.bases.opened import OpenedBase
from peftkit.bases.stand_ins import stand_in
from peftkit.data.packaged import MODELS, PREFIX, find_packaged
from peftkit.errors import BaseModelError, UnreachableError, first_line, not_found, quoted

SMALL_FILES = ["*.json", "*.txt", "*.model", "*.jinja", "*.py"]
WEIGHT_FILES = ["model*.safetensors", "pytorch_model*.bin"]
"""Patterns of weight files, in order of preference; other weight formats are not downloaded."""


def find_files(base: Base) -> OpenedBase:
    """Finds a base's folder and source file; configuration and tokenizer are not read yet.

    Raises:
        BaseModelError: a local base does not exist, or is not a model.
        UnreachableError: the Hub cannot provide the files.
        MissingPackageError: the base's package, or package `gguf`, is not installed.
    """
    path = find_local(base)
    if path is None:
        folder = fetch(base)
        return OpenedBase(base, folder, None, None, hub_id=base.name_or_path, revision=folder.name)
    hub_id = ""
    if base.name_or_path.startswith(PREFIX):
        hub_id = MODELS[base.name_or_path.removeprefix(PREFIX)].hub_id
    if path.is_file():
        return OpenedBase(base, dequantized(path), None, None, hub_id=hub_id, source=path)
    return OpenedBase(base, path, None, None, hub_id=hub_id)


def download_weights(base: OpenedBase) -> None:
    """Downloads the weight files of a Hub base; checks that a local base has weight files.

    Raises:
        BaseModelError: the base has no weight files.
    """
    if base.source is not None:
        return None
    if base.folder.parent.name != "snapshots":
        return check_has_weights(base.folder)
    for pattern in WEIGHT_FILES:
        _snapshot(base.spec, [pattern, pattern + ".index.json"])
        if any(base.folder.glob(pattern)):
            return None
    raise BaseModelError(
        f"`{base.spec.name_or_path}` has none of the weight files {', '.join(WEIGHT_FILES)}",
        "choose a repository with safetensors weights",
    )


def has_weights(base: OpenedBase) -> bool:
    """Whether the weights are on this machine; false for a Hub base before their download."""
    return any(next(base.folder.glob(pattern), None) for pattern in WEIGHT_FILES)


def find_local(base: Base) -> Path | None:
    """The folder or file of a base on this machine; None for a Hub id.

    Raises:
        BaseModelError: the folder or file does not exist, or is not a model.
        MissingPackageError: the package of a `packaged:` base is not installed.
    """
    name = base.name_or_path
    if name.startswith(PREFIX):
        return find_packaged(name, MODELS)[1]
    path = Path(name).expanduser()
    if not path.exists():
        if name.startswith(("/", "./", "../", "~")) or name.endswith(".gguf"):
            raise BaseModelError(f"no file or folder `{name}`", not_found(path), missing=path)
        if not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", name):
            raise BaseModelError(
                f"`{name}` is neither a Hub id (`org/name`), a folder, a .gguf file nor "
                f"`{PREFIX}NAME`"
            )
        return None
    if path.is_file() and path.suffix != ".gguf":
        raise BaseModelError(f"`{name}` is a file", "give the model's folder, or a .gguf file")
    if path.is_dir() and not (path / "config.json").is_file():
        raise BaseModelError(
            f"the folder `{path}` has no config.json",
            "give the folder that transformers' `save_pretrained` wrote",
        )
    if path.is_dir():
        _check_files(path)
    return path


def _check_files(folder: Path) -> None:
    """Raises BaseModelError if a file is not what its name says, such as a Git LFS pointer."""
    for pattern in ("*.json", *WEIGHT_FILES):
        for file in sorted(folder.glob(pattern)):
            if instead := stand_in(file):
                raise BaseModelError(f"`{file}` {instead.what}", instead.advice)


def check_has_weights(folder: Path) -> None:
    """Raises BaseModelError if a base's folder has no weights."""
    if not any(next(folder.glob(pattern), None) for pattern in WEIGHT_FILES):
        raise BaseModelError(
            f"the folder `{folder}` has none of the weight files {quoted(WEIGHT_FILES)}",
            "give the folder that transformers' `save_pretrained` wrote",
        )


def fetch(base: Base) -> Path:
    """Downloads the configuration and tokenizer files of a Hub base; returns their folder.

    Raises:
        UnreachableError: the Hub cannot provide the files.
    """
    return _snapshot(base, SMALL_FILES)


def _snapshot(base: Base, patterns: list[str]) -> Path:
    """Downloads the base's files that match the patterns; returns the folder in the Hub cache."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(
                base.name_or_path, revision=base.revision or None, allow_patterns=patterns
            )
        )
    except (HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise UnreachableError(
            f"`{base.name_or_path}` is no local folder, and the Hub does not give it: "
            f"{first_line(error)}",
            "check the id and the network, log in with `hf auth login` if it is gated, "
            "or give a local folder",
        ) from error
