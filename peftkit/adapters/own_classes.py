"""Users' own methods and tasks, which an adapter records as `module:Class`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from peftkit.parts.json_object import JsonObject


def kinds_from_outside(record: JsonObject | None) -> dict[str, str]:
    """`method` or `task` -> the user's class that an adapter records, for classes that are not
    imported.

    Args:
        record: the content of peftkit.json; None for an adapter that peftkit did not save.
    """
    from peftkit.methods.method import Method
    from peftkit.tasks.task import Task

    recipe = record.get("recipe") if record is not None else None
    found = {}
    for part, family in (("method", Method), ("task", Task)):
        named = recipe.get(part) if isinstance(recipe, dict) else None
        kind = named.get("kind") if isinstance(named, dict) else None
        if isinstance(kind, str) and ":" in kind and kind not in family.kinds:
            found[part] = kind
    return found


def how_to_trust(kind: str) -> str:
    """The option that imports the module of a class, as far as it is found from here; no adapter
    records in which file that was.
    """
    module = kind.split(":", maxsplit=1)[0]
    name = module.split(".", maxsplit=1)[0]
    if not name.isidentifier():  # no module's
        return f"`--trust-module {module}`"
    here = any((Path.cwd() / place).exists() for place in (name, f"{name}.py"))
    if here or name in sys.modules or importlib.util.find_spec(name) is not None:
        return f"`--trust-module {module}`"
    if name != module:
        return f"`--trust-module {module}`, from the folder that holds `{name}`"
    return f"`--trust-module path/to/{name}.py`, the file that has the class"
