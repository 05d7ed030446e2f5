"""The command `peftkit new`: writes a recipe script for sample data or a data file."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit.cli.data_recipes import DraftRecipe, draft_recipe, offer_of, recipe_for_data, with_base
from peftkit.cli.overrides import Overrides
from peftkit.cli.recipe_code import script_of
from peftkit.cli.recipe_files import folder_name
from peftkit.data.splits import load_splits
from peftkit.errors import OutputError, RecipeError, did_you_mean, quoted
from peftkit.parts.scripts import refuse_shadowing
from peftkit.recipe import Training
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification


def new_command(options: argparse.Namespace, overrides: Overrides) -> None:
    """Writes a recipe script for the user to start from.

    Raises:
        RecipeError: the name is not a valid file name, or the task or its columns must be chosen.
        DataError: the file cannot be read.
        OutputError: the script exists already, or cannot be written.
    """
    file = Path(f"{options.name.removesuffix('.py')}.py")
    if folder_name(file.stem) != file.stem:
        raise RecipeError(
            f"`{file.stem}` is not a valid file name", "use letters, digits, `-`, `_`"
        )
    refuse_shadowing(file)
    if file.exists():
        raise OutputError(
            f"`{file}` exists already, and nothing is overwritten", "give another NAME"
        )
    task = _find_task(options.task) if options.task else None
    if options.data:
        draft = recipe_for_data(options.data, task, overrides)
        load_splits(draft.recipe.task, draft.recipe.split_seed)
    else:
        draft = _sample_draft(task or TextClassification, overrides)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(script_of(draft.recipe, draft.start, file.stem))
    except OSError as error:
        raise OutputError(f"cannot write `{file}`: {error.strerror}") from error
    _print(file, draft.recipe.task)


def _find_task(name: str) -> type[Task]:
    if task := next((t for kind, t in Task.kinds.items() if kind == name), None):
        assert issubclass(task, Task)
        return task
    raise RecipeError(
        f"`--task` is `{name}`, which is none of {quoted(Task.kinds)}",
        did_you_mean(name, Task.kinds) or "import a task of your own with `--trust-module`",
    )


def _sample_draft(task: type[Task], overrides: Overrides) -> DraftRecipe:
    """Drafts a recipe for a task's sample data, which a package contains."""
    offer = offer_of(task)
    if not offer.sample:
        raise RecipeError(
            f"peftkit has no sample data for {task.kind()}",
            f"give a file: `--data FILE`; each of its rows has {offer.reads}",
        )
    training = Training(learning_rate=1e-3, num_epochs=1, batch_size=32)
    return with_base(draft_recipe(task, offer.sample, training).changed(overrides))


def _print(file: Path, task: Task) -> None:
    columns = ", ".join(f"{role} `{name}`" for role, name in task.columns.items())
    suffix = f" ({columns})" if columns else ""
    print(f"wrote {file}: {task.kind()} of `{task.source.path}`{suffix}\n")
    print(f"  peftkit check {file}\n  python {file} --help\n  python {file}")
