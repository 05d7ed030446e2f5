"""Reads recipes from scripts and recipe.json files, and applies overrides to them."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path

from peftkit.cli.overrides import Overrides, overridden
from peftkit.errors import PeftkitError, RecipeError, not_found
from peftkit.parts.problems import all_problems
from peftkit.parts.scripts import import_file, script_errors
from peftkit.recipe import Recipe


def recipe_in(
    file: Path, arguments: Sequence[str], command_options: Collection[str] = ()
) -> Recipe:
    """Reads the recipe in a script or a recipe.json, and applies overrides.

    Args:
        arguments: the overrides, such as `--method.r 16`.
        command_options: the command's own options, to suggest for misspelled overrides.

    Raises:
        RecipeError: the file has no recipe, or an override is wrong.
    """
    if file.is_dir():
        inside = next(
            (name for name in ("recipe.json", "recipes/*.json") if any(file.glob(name))), ""
        )
        raise RecipeError(f"`{file}` is a folder", f"try `{file / inside}`" if inside else "")
    if not file.is_file():
        raise RecipeError(f"no file `{file}`", not_found(file))
    if file.suffix not in (".py", ".json"):
        raise RecipeError(
            f"`{file}` is not a recipe: its name ends in neither .py nor .json",
            "`peftkit new NAME` writes a recipe to start from",
        )
    if file.suffix == ".py":
        module = import_file(file)
        if not callable(getattr(module, "recipe", None)):
            raise RecipeError(
                f"`{file}` has no function `recipe`",
                "`peftkit new NAME` writes a script with this function",
            )
        return recipe_of(module.recipe, file, arguments, command_options)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"`{file}` is not UTF-8 text") from error
    recipe = Recipe.from_json(text, str(file))
    return _overridden(recipe, file, arguments, command_options)


def recipe_of(
    build: Callable[[], Recipe],
    file: Path,
    arguments: Sequence[str],
    command_options: Collection[str] = (),
) -> Recipe:
    """Calls a script's function, and applies overrides to the recipe that it returns.

    Raises:
        RecipeError: the function fails or returns no Recipe, or an override is wrong.
    """
    with all_problems(str(file)), script_errors(file):
        recipe = build()
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"`recipe()` in {file} returns {type(recipe).__name__}, not a Recipe")
    return _overridden(recipe, file, arguments, command_options)


def _overridden(
    recipe: Recipe, file: Path, arguments: Sequence[str], command_options: Collection[str]
) -> Recipe:
    if not recipe.name:
        recipe = recipe.with_(name=folder_name(file.stem))
    script = file.relative_to(Path.cwd()) if file.is_relative_to(Path.cwd()) else file
    listing = f"python {script} --help" if file.suffix == ".py" else "peftkit schema"
    return overridden(recipe, Overrides(arguments, listing, command_options))


def folder_name(stem: str) -> str:
    """Makes the name of a run's folder from the name of the recipe's file."""
    return "".join(c if c.isalnum() or c in "_-." else "-" for c in stem).lstrip("-.") or "run"


@contextlib.contextmanager
def hint_beside(script: Path) -> Iterator[None]:
    """Adds a hint to errors about a missing file if the file is in the script's folder."""
    try:
        yield
    except PeftkitError as error:
        if error.missing and not error.missing.is_absolute():
            there = script.parent / error.missing
            if there.exists():
                error.hint = (
                    f"it is beside the script: give `{os.path.relpath(there)}`, as paths are "
                    f"relative to the current folder, `{Path.cwd()}`"
                )
        raise
