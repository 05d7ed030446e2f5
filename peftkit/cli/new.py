"""The command `peftkit new`: writes a recipe script to start from, for a sample or for a file."""

from __future__ import annotations

import argparse
from pathlib import Path

from peftkit.cli.data_recipes import Begun, begin, offer_of, recipe_for_data, with_base
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
    """Writes a recipe script to start from.

    Raises:
        RecipeError: the name is none for a file, or the task or its columns must be chosen.
        DataError: the file cannot be read.
        OutputError: the script exists, or cannot be written.
    """
    file = Path(f"{options.name.removesuffix('.py')}.py")
    if folder_name(file.stem) != file.stem:
        raise RecipeError(f"`{file.stem}` is no name for a file", "use letters, digits, `-`, `_`")
    refuse_shadowing(file)
    if file.exists():
        raise OutputError(f"`{file}` exists already, and nothing is overwritten")
    task = _task_named(options.task) if options.task else None
    if options.data:
        begun = recipe_for_data(options.data, task, overrides)
        load_splits(begun.recipe.task, begun.recipe.split_seed)
    else:
        begun = _for_sample(task or TextClassification, overrides)
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(script_of(begun.recipe, begun.start, file.stem))
    except OSError as error:
        raise OutputError(f"cannot write `{file}`: {error.strerror}") from error
    _print(file, begun.recipe.task)


def _task_named(name: str) -> type[Task]:
    if task := next((t for kind, t in Task.kinds.items() if kind == name), None):
        assert issubclass(task, Task)
        return task
    raise RecipeError(
        f"`--task` is `{name}`, which is none of {quoted(Task.kinds)}",
        did_you_mean(name, Task.kinds) or "`--trust-module` imports a task of your own",
    )


def _for_sample(task: type[Task], overrides: Overrides) -> Begun:
    """The recipe of a task for a packaged data set."""
    offer = offer_of(task)
    if not offer.sample:
        raise RecipeError(
            f"no data for {task.kind()} comes with peftkit",
            f"give a file: `--data FILE`; each of its rows has {offer.reads}",
        )
    training = Training(learning_rate=1e-3, num_epochs=1, batch_size=32)
    return with_base(begin(task, offer.sample, training).changed(overrides))


def _print(file: Path, task: Task) -> None:
    columns = ", ".join(f"{role} `{name}`" for role, name in task.columns.items())
    told = f" ({columns})" if columns else ""
    print(f"wrote {file}: {task.kind()} of `{task.source.path}`{told}\n")
    print(f"  peftkit check {file}\n  python {file} --help\n  python {file}")
