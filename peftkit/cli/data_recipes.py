"""Drafts a recipe for a data file.

Each task lists the ways in which it can read the file's columns. If only one way is clear, it is
chosen; if not, an error lists the ways.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from peftkit.bases.base import Base
from peftkit.cli.overrides import Overrides, overridden
from peftkit.data.column_looks import inspect_columns, list_columns
from peftkit.data.reading import read_source
from peftkit.data.rows import Table
from peftkit.data.source import Source
from peftkit.errors import RecipeError
from peftkit.methods.lora import LoRA
from peftkit.recipe import Recipe, Training
from peftkit.tasks.offers import Fit, Offer
from peftkit.tasks.task import Task
from peftkit.wording import plural

DATA = "--task.data."
UNKNOWN_BASE = "-"
"""Stands for the base's name in a recipe without a base."""
LISTED = 8
"""Maximum number of ways to read a file that an error lists."""


@dataclass(frozen=True)
class DraftRecipe:
    """A drafted recipe, before and after the command line's overrides."""

    start: Recipe
    """The recipe before overrides; its explicitly set fields are always written to the script."""
    recipe: Recipe
    """The recipe after overrides."""
    fit: Fit = Fit.BY_VALUES
    """How clearly the data fits the recipe's task."""

    def changed(self, overrides: Overrides) -> DraftRecipe:
        """Returns the draft with the command line's overrides applied.

        Raises:
            RecipeError: an override is wrong.
        """
        return replace(self, recipe=overridden(self.start, overrides))


def draft_recipe(task: type[Task], data: Mapping[str, object], training: Training) -> DraftRecipe:
    """Drafts a recipe for a task; `data` gives values for the fields of the task's `data`."""
    recipe = Recipe(
        base=Base(name_or_path=offer_of(task).base or UNKNOWN_BASE),
        task=task.model_validate({"data": data}),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=training,
    )
    return DraftRecipe(recipe, recipe)


def offer_of(task: type[Task]) -> Offer:
    """Returns a task's offer; if the task has none, an offer that reads no table."""
    return task.offer or Offer(f"what {task.kind()} needs", lambda _: ())


def with_base(draft: DraftRecipe) -> DraftRecipe:
    """Returns the draft unchanged, or raises RecipeError if it has no base."""
    if draft.recipe.base.name_or_path == UNKNOWN_BASE:
        task = type(draft.recipe.task)
        raise RecipeError(
            f"no package ships a base for {task.kind()}",
            "name one: `--base.name-or-path BASE`",
        )
    return draft


def _offered() -> list[type[Task]]:
    """Returns the tasks that define their own offer, without tasks that inherit an offer."""
    kinds = [kind for kind in Task.kinds.values() if issubclass(kind, Task)]
    return [kind for kind in kinds if vars(kind).get("offer")]


def recipe_for_data(path: str, task: type[Task] | None, overrides: Overrides) -> DraftRecipe:
    """Drafts the recipe for a file's columns.

    Args:
        task: the task to use; if None, all are tried.

    Raises:
        DataError: the file cannot be read.
        RecipeError: no task reads the file, or there are several ways to read it.
    """
    common = [name.replace("_", "-") for name in Source.model_fields]
    source = overridden(Source(path=path), overrides.below(DATA, common))
    defaults = {name: info.default for name, info in Source.model_fields.items()}
    settings = {name: value for name, value in source if value != defaults[name]}
    tables = read_source(source)
    table = tables.get("train") or tables["all"]
    tasks = [task] if task else _offered()
    training = Training(learning_rate=1e-3, num_epochs=3, batch_size=16)
    ways = [
        replace(draft_recipe(kind, {**settings, **reading.columns}, training), fit=reading.fit)
        for kind in tasks
        for reading in offer_of(kind).readings(table)
    ]
    named = any(argument.startswith(DATA) for argument in overrides.arguments)
    if not ways and task and named:
        ways = [draft_recipe(task, settings, training)]
    if not ways:
        raise _nothing_fits(table, tasks)
    best = max(way.fit for way in ways)
    left = _matching([way for way in ways if way.fit == best], overrides)
    if len(left) != 1 or not (best > Fit.POSSIBLE or task or named):
        raise _unclear(table, [way.recipe.task for way in left or ways])
    return with_base(left[0])


def _matching(ways: Sequence[DraftRecipe], overrides: Overrides) -> list[DraftRecipe]:
    """Applies the overrides to each draft; drops duplicates and drafts that refuse an override."""
    left: dict[str, DraftRecipe] = {}
    refused: list[RecipeError] = []
    for way in ways:
        try:
            changed = way.changed(overrides)
        except RecipeError as error:
            refused.append(error)
            continue
        columns = changed.recipe.task.columns.values()
        if len(set(columns)) == len(columns):
            left.setdefault(changed.recipe.to_json(), changed)
    if refused and not left:
        raise refused[0]
    return list(left.values())


def _unclear(table: Table, tasks: Sequence[Task]) -> RecipeError:
    """Returns the error for a table with several ways to read it, or with one unclear way."""
    lines = [shlex.join(line) for line in _options(tasks)]
    more = f"\n  and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    ways = "one way that is not clear" if len(lines) == 1 else plural(len(lines), "way")
    columns = list_columns(inspect_columns(table))
    return RecipeError(
        f"`{table.name}` can be read in {ways}; its columns are {columns}",
        ("if this is what you want, add it" if len(lines) == 1 else "choose one")
        + ":\n"
        + "".join(f"\n  {line}" for line in lines[:LISTED])
        + more,
    )


def _options(tasks: Sequence[Task]) -> list[list[str]]:
    """Returns, for each task, the command-line options that choose it and its columns."""
    lines = []
    for task in tasks:
        line = ["--task", task.kind()]
        for name in type(task.source).model_fields:
            if name in task.source.model_fields_set and name not in Source.model_fields:
                line += [f"{DATA}{name.replace('_', '-')}", str(getattr(task.source, name))]
        lines.append(line)
    return lines


def _nothing_fits(table: Table, tasks: Sequence[type[Task]]) -> RecipeError:
    """Returns the error for a table that no task can read."""
    columns = list_columns(inspect_columns(table))
    if len(tasks) == 1:
        (task,) = tasks
        return RecipeError(
            f"`{table.name}` has no columns that are clearly for {task.kind()}, which reads "
            f"{offer_of(task).reads}; its columns are {columns}",
            f"name them, such as `{DATA}{next(iter(_roles(task)), 'path')} NAME`",
        )
    reads = "".join(f"\n  {task.kind()}: {offer_of(task).reads}" for task in tasks)
    return RecipeError(
        f"`{table.name}` fits no task; its columns are {columns}",
        f"each row must have the values that one task reads:\n{reads}",
    )


def _roles(task: type[Task]) -> list[str]:
    """Returns the options that name a task's columns, without the prefix `--task.data.`."""
    info = task.model_fields.get("data")
    data: Any = info.annotation if info else None
    fields = data.model_fields if isinstance(data, type) and issubclass(data, Source) else ()
    return [name.replace("_", "-") for name in fields if name not in Source.model_fields]
