"""Users' own methods and tasks, which an adapter records as `module:Class`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def kinds_from_outside(record: Mapping[str, Any] | None) -> dict[str, str]:
    """`method` or `task` -> the user's class that an adapter records, for classes that are not
    imported.

    Args:
        record: the content of peftkit.json; None for an adapter that peftkit did not save.
    """
    from peftkit.methods.method import Method
    from peftkit.tasks.task import Task

    recipe = (record or {}).get("recipe")
    found = {}
    for part, family in (("method", Method), ("task", Task)):
        named = recipe.get(part) if isinstance(recipe, dict) else None
        kind = named.get("kind") if isinstance(named, dict) else None
        if isinstance(kind, str) and ":" in kind and kind not in family.kinds:
            found[part] = kind
    return found
