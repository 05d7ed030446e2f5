"""Finds the newest run folder with a given name."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

from peftkit.errors import AdapterError, not_found

LATEST = "@latest"


def newest_run(path: str) -> str:
    """Returns the newest run folder for `runs/<name>@latest`; returns any other path unchanged.

    The newest run is the one that started last. Only runs that hold an adapter count.
    """
    if not path.endswith(LATEST) or not Path(path).expanduser().parent.is_dir():
        return path
    first = Path(path.removesuffix(LATEST)).expanduser()
    runs = [first, *first.parent.glob(f"{glob.escape(first.name)}-*")]
    pattern = re.compile(re.escape(first.name) + r"(-\d+)?")
    runs = [run for run in runs if pattern.fullmatch(run.name) and (run / "adapter").is_dir()]
    runs = [run for run in runs if run == first or _recorded_name(run) == first.name]
    if not runs:
        raise AdapterError(f"no run in `{first.parent}` is called `{first.name}`", not_found(first))
    return str(max(runs, key=_start_time))


def _recorded_name(run: Path) -> str:
    """The name in a run's recipe; empty if the recipe cannot be read.

    The folder's name is not enough: `lora-16` may be the 16th run of `lora`, or a run named
    `lora-16`.
    """
    try:
        return str(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _start_time(run: Path) -> float:
    """Start time of a run, in seconds: when its first file, the recipe, was written."""
    recipe = run / "recipe.json"
    return (recipe if recipe.is_file() else run).stat().st_mtime
