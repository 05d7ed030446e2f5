"""Finds an adapter's folder from a user's path, and describes folders without an adapter.

Uses only the standard library, as `inspecting` does.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from peftkit.adapters.inspection.adapterhub_format import FUSION_CONFIG
from peftkit.adapters.inspection.digests import RECORD, WEIGHTS
from peftkit.adapters.inspection.other_libraries import library_of
from peftkit.errors import AdapterError, not_found
from peftkit.methods.peft.adapter_config import CONFIG

HUB_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?")
LARGEST_CONFIG = 2**20
"""Maximum number of bytes to read from a config.json."""
UNFINISHED = "adapter.unfinished"
"""Name of the folder with the best weights of an interrupted run."""


def user_path(path: str) -> Path:
    """A path with `~` expanded.

    Raises:
        AdapterError: the path cannot be read.
    """
    try:
        expanded = Path(path).expanduser()
        for file in (expanded / RECORD, expanded / "adapter" / RECORD):
            file.is_file()
    except (RuntimeError, OSError, ValueError) as error:  # `~somebody`, too long, no permission
        reason = getattr(error, "strerror", None) or error
        raise AdapterError(
            f"`{path[:100]}` cannot be read: {reason}", "give a run folder (`runs/<name>`)"
        ) from error
    return expanded


def adapter_in(path: Path) -> Path:
    """The adapter folder in a run folder, or `path` itself if it is the adapter folder.

    Raises:
        AdapterError: neither folder holds an adapter.
    """
    folder = path / "adapter" if (path / "adapter").is_dir() else path
    if folder.is_file():
        raise AdapterError(f"`{path}` is a file", "give the run's or the adapter's folder")
    if not folder.is_dir():
        raise AdapterError(f"no folder `{path}`", not_found(path))
    if (folder / RECORD).is_file() or (folder / CONFIG).is_file():
        return folder
    if (path / "adapter.unchecked").is_dir():
        raise AdapterError(
            f"the adapter in `{path}` failed its check when it was saved, or the run stopped "
            "before the check",
            f"to inspect it anyway, give `{path / 'adapter.unchecked'}`",
        )
    if (path / UNFINISHED).is_dir():
        raise AdapterError(
            f"the run in `{path}` was interrupted, and left an unfinished adapter",
            f"give `{path / UNFINISHED}` for its best validated weights",
        )
    if (folder / "merge_report.json").is_file():
        raise AdapterError(
            f"`{folder}` is a merged model, with no adapter left in it",
            "load it with transformers; its README.md has the code",
        )
    if (folder / FUSION_CONFIG).is_file():
        raise AdapterError(
            f"`{folder}` holds an AdapterHub fusion, which mixes several adapters",
            "peftkit loads single adapters; use the `adapters` library, which wrote it",
        )
    raise AdapterError(f"`{folder}` holds no adapter: neither {CONFIG} nor {RECORD}", _hint(folder))


def _hint(folder: Path) -> str:
    """The hint for a folder without an adapter: its likely kind, or a subfolder with an adapter."""
    within = sorted(file.parent for file in folder.glob(f"*/{CONFIG}"))
    if within:
        more = f"; {len(within)} folders in it do" if len(within) > 1 else ""
        return f"give `{within[-1]}`, which holds an adapter{more}"
    if any((folder / f"{Path(WEIGHTS).stem}{end}").is_file() for end in (".safetensors", ".bin")):
        return f"it has the weights; download their {CONFIG} too"
    if found := library_of({}, folder):
        library, signs = found
        return f"it looks like a folder of {library.name}, with {signs}: {library.instead}"
    if (folder / "config.json").is_file():
        if found := library_of(_model_config(folder), folder):
            library, signs = found
            if library.name != "transformers":
                return f"it looks like a model of {library.name}, with {signs}: {library.instead}"
        return "it looks like a whole model; give it as `--base`, with an adapter"
    return "give a run folder (`runs/<name>`), or a folder that PEFT has saved"


def _model_config(folder: Path) -> dict[str, Any]:
    """The content of a folder's config.json; empty if the file cannot be read."""
    try:
        with (folder / "config.json").open("rb") as file:
            config = json.loads(file.read(LARGEST_CONFIG))
    except (OSError, ValueError, RecursionError):
        return {}
    return config if isinstance(config, dict) else {}
