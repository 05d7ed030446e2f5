"""The newest run folder of a name."""

from __future__ import annotations

import glob
import json
import re
from pathlib import Path

from peftkit.errors import AdapterError, not_found

LATEST = "@latest"


def newest_run(path: str) -> str:
    """Of `runs/<name>@latest`, the run folder of that name that was begun last and holds an
    adapter; any other path as it is.
    """
    if not path.endswith(LATEST) or not Path(path).expanduser().parent.is_dir():
        return path
    first = Path(path.removesuffix(LATEST)).expanduser()
    runs = [first, *first.parent.glob(f"{glob.escape(first.name)}-*")]
    named = re.compile(re.escape(first.name) + r"(-\d+)?")
    found = [run for run in runs if named.fullmatch(run.name) and (run / "adapter").is_dir()]
    found = [run for run in found if run == first or _name_in(run) == first.name]
    if not found:
        raise AdapterError(f"no run in `{first.parent}` is called `{first.name}`", not_found(first))
    return str(max(found, key=_begun))


def _name_in(run: Path) -> str:
    """The name that a run's recipe has: `lora-16` is no second run of `lora`."""
    try:
        return str(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _begun(run: Path) -> float:
    """When a run was begun; its recipe is what it writes first."""
    recipe = run / "recipe.json"
    return (recipe if recipe.is_file() else run).stat().st_mtime
