"""The recipe for a file: each task says in which ways it reads the file's columns, and one of these
ways is chosen where that is clear.
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
"""Stands in a recipe whose base is not given yet."""
LISTED = 8
"""Ways to read a file that an error lists, at most."""


@dataclass(frozen=True)
class Begun:
    """A recipe to start from."""

    start: Recipe
    """As it begins, with the fields set that a script should show."""
    recipe: Recipe
    """With what the command line changes."""
    fit: Fit = Fit.BY_VALUES
    """How clearly the data is meant so."""

    def changed(self, overrides: Overrides) -> Begun:
        """With fields changed that the command line names.

        Raises:
            RecipeError: an override is wrong.
        """
        return replace(self, recipe=overridden(self.start, overrides))


def begin(task: type[Task], data: Mapping[str, object], training: Training) -> Begun:
    """The recipe of a task for fields of its `data`."""
    recipe = Recipe(
        base=Base(name_or_path=offer_of(task).base or UNKNOWN_BASE),
        task=task.model_validate({"data": data}),
        method=LoRA(r=8, lora_alpha=16, target_modules="all-linear"),
        training=training,
    )
    return Begun(recipe, recipe)


def offer_of(task: type[Task]) -> Offer:
    """What a task says of itself; of one that says nothing, that it reads no table."""
    return task.offer or Offer(f"what {task.kind()} needs", lambda _: ())


def with_base(begun: Begun) -> Begun:
    """The same recipe; raises RecipeError if its base must be chosen."""
    if begun.recipe.base.name_or_path == UNKNOWN_BASE:
        task = type(begun.recipe.task)
        hint = offer_of(task).base_hint
        raise RecipeError(
            f"no base for {task.kind()} comes with a package",
            f"name one: `--base.name-or-path BASE`{hint and f', {hint}'}",
        )
    return begun


def _offered() -> list[type[Task]]:
    """The tasks that state an offer themselves; a subclass is not offered beside its parent."""
    kinds = [kind for kind in Task.kinds.values() if issubclass(kind, Task)]
    return [kind for kind in kinds if vars(kind).get("offer")]


def recipe_for_data(path: str, task: type[Task] | None, overrides: Overrides) -> Begun:
    """The recipe for a file's columns.

    Args:
        task: the only one that is asked; any, if None.

    Raises:
        DataError: the file cannot be read.
        RecipeError: no task reads the file, or there are several ways to read it.
    """
    common = [name.replace("_", "-") for name in Source.model_fields]
    source = overridden(Source(path=path), overrides.below(DATA, common))
    defaults = {name: info.default for name, info in Source.model_fields.items()}
    given = {name: value for name, value in source if value != defaults[name]}
    tables = read_source(source)
    table = tables.get("train") or tables["all"]
    tasks = [task] if task else _offered()
    training = Training(learning_rate=1e-3, num_epochs=3, batch_size=16)
    ways = [
        replace(begin(one, {**given, **reading.columns}, training), fit=reading.fit)
        for one in tasks
        for reading in offer_of(one).readings(table)
    ]
    named = any(argument.startswith(DATA) for argument in overrides.arguments)
    if not ways and task and named:
        ways = [begin(task, given, training)]
    if not ways:
        raise _nothing_fits(table, tasks)
    best = max(way.fit for way in ways)
    left = _left([way for way in ways if way.fit == best], overrides)
    if len(left) != 1 or not (best > Fit.POSSIBLE or task or named):
        raise _unclear(table, [way.recipe.task for way in left or ways])
    return with_base(left[0])


def _left(ways: Sequence[Begun], overrides: Overrides) -> list[Begun]:
    """The ways that fit the overrides, with them; of equal ones the first."""
    left: dict[str, Begun] = {}
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
    """The error for a table that may be read in several ways, or in one that is not clear."""
    lines = [shlex.join(line) for line in _options(tasks)]
    more = f"\n  and {len(lines) - LISTED} more" if len(lines) > LISTED else ""
    ways = "a way that is not clear" if len(lines) == 1 else plural(len(lines), "way")
    columns = list_columns(inspect_columns(table))
    return RecipeError(
        f"`{table.name}` can be read in {ways}; its columns are {columns}",
        ("add this if it is meant" if len(lines) == 1 else "choose one")
        + ":\n"
        + "".join(f"\n  {line}" for line in lines[:LISTED])
        + more,
    )


def _options(tasks: Sequence[Task]) -> list[list[str]]:
    """For each task the options that choose it and its columns."""
    lines = []
    for task in tasks:
        line = ["--task", task.kind()]
        for name in type(task.source).model_fields:
            if name in task.source.model_fields_set and name not in Source.model_fields:
                line += [f"{DATA}{name.replace('_', '-')}", str(getattr(task.source, name))]
        lines.append(line)
    return lines


def _nothing_fits(table: Table, tasks: Sequence[type[Task]]) -> RecipeError:
    """The error for a table that no task reads."""
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
        f"`{table.name}` has nothing that a task reads; its columns are {columns}",
        f"each row must have what one of the tasks reads:\n{reads}",
    )


def _roles(task: type[Task]) -> list[str]:
    """Options for a task's columns, below `--task.data.`."""
    info = task.model_fields.get("data")
    data: Any = info.annotation if info else None
    fields = data.model_fields if isinstance(data, type) and issubclass(data, Source) else ()
    return [name.replace("_", "-") for name in fields if name not in Source.model_fields]
