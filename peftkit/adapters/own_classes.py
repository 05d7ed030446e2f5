"""Finds users' own methods and tasks, which an adapter records as `module:Class`."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

from peftkit.parts.json_object import JsonObject


def unimported_classes(record: JsonObject | None) -> dict[str, str]:
    """Maps `method` and `task` to the recorded `module:Class` if this class is not imported yet.

    Args:
        record: the content of peftkit.json; None for an adapter that peftkit did not save.
    """
    from peftkit.methods.method import Method
    from peftkit.tasks.task import Task

    recipe = record.get("recipe") if record is not None else None
    unimported = {}
    for part, family in (("method", Method), ("task", Task)):
        value = recipe.get(part) if isinstance(recipe, dict) else None
        kind = value.get("kind") if isinstance(value, dict) else None
        if isinstance(kind, str) and ":" in kind and kind not in family.kinds:
            unimported[part] = kind
    return unimported


def trust_hint(kind: str) -> str:
    """The `--trust-module` option that imports the module of a user's class.

    Adapters do not record the module's file: if the module is not found, the option has a
    placeholder for its path.
    """
    module = kind.split(":", maxsplit=1)[0]
    name = module.split(".", maxsplit=1)[0]
    if not name.isidentifier():  # not a module's name
        return f"`--trust-module {module}`"
    is_local = any((Path.cwd() / file).exists() for file in (name, f"{name}.py"))
    if is_local or name in sys.modules or importlib.util.find_spec(name) is not None:
        return f"`--trust-module {module}`"
    if name != module:
        return f"`--trust-module {module}`, from the folder that holds `{name}`"
    return f"`--trust-module path/to/{name}.py`, the file with the class"
