"""Makes the content of compare.json: rows, settings, notes, and the comparison's command."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from peftkit.experiments.comparing.comparison import ComparedBase, Comparison, Row, Spent, SplitRows
from peftkit.experiments.comparing.grid import FREE, Grid, foreign_modules, steps_of_search
from peftkit.experiments.comparing.identity import Common
from peftkit.experiments.comparing.jobs import num_steps
from peftkit.experiments.comparing.notes import has_learned, notes_of
from peftkit.experiments.comparing.runs import Runs
from peftkit.experiments.comparing.table import margin_of
from peftkit.experiments.jobs.queue import JobQueue
from peftkit.recipe import Recipe, Training
from peftkit.stages.preparing import Prepared
from peftkit.wording import plural


def make_record(
    grid: Grid,
    first: Prepared,
    runs: Sequence[Runs],
    rows: tuple[Row, ...],
    queue: JobQueue,
    shared: Common,
    status: str,
) -> Comparison:
    """Makes the content of compare.json.

    Args:
        shared: base, data, device and versions, which all parts share.
        status: see `Comparison.status`.
    """
    recipe, metric = first.recipe, grid.metric
    full = next(each for each in runs if each.contender.is_baseline)
    margin = margin_of(grid, full)
    learned = [
        each.contender.name for each in runs if each.seeds and has_learned(each, metric, margin)
    ]
    splits = first.encoded.splits()
    return Comparison(
        status=status,
        name=recipe.task.kind(),
        created=queue.last_done().isoformat(sep=" ", timespec="minutes"),
        device=shared.device,
        versions=shared.versions,
        base=ComparedBase(**asdict(shared.base)),
        task=recipe.task.kind(),
        data=recipe.task.source.path,
        split_rows=SplitRows(**{name: len(split) for name, split in splits.items()}),
        metric=metric,
        margin=margin,
        budget=_spent(grid, first),
        before=full.seeds[0].before if full.seeds else None,
        learned=tuple(learned),
        seconds=queue.seconds,
        command=_command(grid, queue.folder.path / "recipes"),
        held_fixed=_held_fixed(grid, first, shared.base.sha256),
        notes=notes_of(grid.budget.num_seeds, rows, queue.failures),
        rows=rows,
    )


def _spent(grid: Grid, first: Prepared) -> Spent:
    training, steps = first.recipe.training, num_steps(first)
    tokens = first.encoded.train.num_tokens / first.encoded.train.num_units * training.batch_size
    return Spent(
        num_epochs=training.num_epochs,
        num_steps=steps,
        batch_size=training.batch_size,
        tokens=round(tokens * steps),
        trials=grid.budget.num_trials,
        search_steps=steps_of_search(steps),
        num_seeds=grid.budget.num_seeds,
    )


def _command(grid: Grid, folder: Path) -> str:
    """The command that repeats the comparison.

    Args:
        folder: the folder `recipes` of the comparison, which holds one JSON file per recipe.
    """
    budget = grid.budget
    files = {folder / f"{contender.name}.json" for contender in grid.contenders}
    if files == set(folder.glob("*.json")):
        parts = [f"peftkit compare {shlex.quote(str(folder))}/*.json"]
    else:  # the folder holds further recipes from an earlier call
        parts = ["peftkit compare", *(shlex.quote(str(file)) for file in sorted(files))]
    parts += [f"--trials {budget.num_trials}", f"--seeds {budget.num_seeds}"]
    parts += [f"--margin {budget.margin:g}"] if budget.margin is not None else []
    if budget.retention is not None:
        retention = budget.retention
        parts += [f"--retain {shlex.quote(retention.path)} --retain-rows {retention.max_rows}"]
    elif grid.contenders[0].recipe.task.goes_on:
        parts += ["--retain none"]
    recipes = [contender.recipe for contender in grid.contenders]
    modules = {module for recipe in recipes for module in foreign_modules(recipe)}
    parts += [f"--trust-module {shlex.quote(module)}" for module in sorted(modules)]
    return " ".join([*parts, "--output-dir again"])


def _held_fixed(grid: Grid, first: Prepared, sha256: str) -> tuple[tuple[str, str], ...]:
    recipe, training, retention = first.recipe, first.recipe.training, grid.budget.retention
    rates = "the same number for each method, half a decade apart, around its recipe's"
    if grid.budget.num_trials == 1:
        rates = "each recipe's own; no other was tried"
    fixed = [
        ("base", f"{recipe.base.name_or_path}, sha256 {sha256[:12]}"),
        ("rows and their splits", f"split seed {recipe.split_seed}"),
        ("order of the rows", "by the run's seed, the same for all methods"),
        ("optimizer steps", f"{num_steps(first)} of {plural(training.batch_size, 'example')}"),
        ("other settings of training", _settings(recipe)),
        ("early stopping", "none; the weights of the best validation are scored"),
        ("learning rates", rates),
        ("trained weights", "float32, also in full fine-tuning"),
    ]
    if retention is not None:
        text = f"{retention.path}, {retention.max_rows} of at most {retention.max_length} tokens"
        fixed.append(("general text", text))
    return tuple(fixed)


def _settings(recipe: Recipe) -> str:
    """Names and values of training settings that all recipes share and that are not defaults."""
    training, default = recipe.training, Training()
    changed = [
        f"{name} {getattr(training, name)}"
        for name in type(training).model_fields
        if f"training.{name}" not in FREE and getattr(training, name) != getattr(default, name)
    ]
    return ", ".join(changed) or "the defaults"
