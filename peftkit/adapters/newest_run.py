"""Finds the newest run folder with a name."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

from peftkit.errors import AdapterError, not_found

LATEST = "@latest"


def newest_run(path: str) -> str:
    """The folder for `runs/<name>@latest`: of the runs with this name that hold an adapter, the one
    started last. Returns any other path unchanged.
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
    """The name in a run's recipe; a folder `lora-16` may hold a 16th run of `lora` or a run with
    the name `lora-16`.
    """
    try:
        return str(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _start_time(run: Path) -> float:
    """When a run started: the time of its recipe, the first file it writes."""
    recipe = run / "recipe.json"
    return (recipe if recipe.is_file() else run).stat().st_mtime
