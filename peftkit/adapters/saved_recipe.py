"""Reads the recipe of a peftkit adapter from its run folder or its peftkit.json."""

from __future__ import annotations

import json
from pathlib import Path

from peftkit.adapters.folders import UNFINISHED, adapter_in, user_path
from peftkit.adapters.inspection.digests import RECORD
from peftkit.errors import AdapterError
from peftkit.recipe import Recipe

RECIPE = "recipe.json"
WITHIN_RUNS = ("adapter.unchecked", UNFINISHED)
"""Names of an adapter's folder in a run that did not finish."""


def recipe_of(path: Path, published: str) -> Recipe:
    """The recipe in the run folder, which has full local paths; without a run folder, `published`.

    Args:
        path: a run folder or an adapter folder.
        published: the recipe in peftkit.json, as JSON.
    """
    run = path.parent if path.name in WITHIN_RUNS else path
    if (run / RECIPE).is_file():
        return Recipe.from_json((run / RECIPE).read_text(encoding="utf-8"), str(run / RECIPE))
    return Recipe.from_json(published, f"the recipe in {RECORD}")


def quick_recipe(path: str) -> Recipe | None:
    """Reads the recipe of an adapter before its checks; None if it is missing or unreadable.

    An unreadable recipe is no error here, because loading the adapter reports it later.
    """
    try:
        folder = adapter_in(user_path(path))
        record = json.loads((folder / RECORD).read_text(encoding="utf-8"))
        return recipe_of(user_path(path), json.dumps(record["recipe"]))
    except AdapterError:
        raise
    except Exception:  # damaged or hostile content
        return None
