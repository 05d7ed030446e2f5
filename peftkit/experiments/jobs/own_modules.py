"""Finds the modules with the user's own tasks and methods, which processes of jobs must import."""

from __future__ import annotations

import sys
from collections.abc import Iterable
from pathlib import Path

from peftkit.data.packaged import sha256_of
from peftkit.errors import RecipeError
from peftkit.parts.part import OpenPart
from peftkit.recipe import Recipe


def foreign_modules(recipe: Recipe) -> list[str]:
    """The modules with the user's own task and method, for other processes to import. A module in a
    package is given by its name, any other module by the path of its file.
    """
    parts: tuple[OpenPart, ...] = (recipe.task, recipe.method)
    modules = {type(part).__module__ for part in parts if ":" in part.kind()}
    named = [module for module in sorted(modules) if "." in module]  # modules in a package
    files = [
        getattr(sys.modules[module], "__file__", None) for module in sorted(modules - {*named})
    ]
    if None in files:
        raise RecipeError(
            "other processes must import your own task or method, but it has no file",
            "define it in a .py file",
        )
    return [*named, *(str(Path(file).resolve()) for file in files if file)]


def module_digests(modules: Iterable[str]) -> dict[str, str]:
    """Module, by the name or path that `foreign_modules` returned -> SHA-256 of its file."""
    return {module: sha256_of(_file_of(module)) for module in sorted(set(modules))}


def _file_of(module: str) -> Path:
    loaded = sys.modules.get(module)
    return Path(loaded.__file__ if loaded and loaded.__file__ else module)
