"""compare.json: the rows, and all that is needed to read them and to do them again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from peftkit.evaluation.retention import Retention
from peftkit.experiments.comparing.grid import FREE, Grid, foreign_modules, steps_of_search
from peftkit.experiments.comparing.jobs import num_steps
from peftkit.experiments.comparing.table import Runs, has_learned, margin_of, notes_of
from peftkit.experiments.jobs.queue import Course
from peftkit.recipe import Recipe, Training
from peftkit.stages.preparing import Prepared
from peftkit.wording import plural

Json = dict[str, Any]


def make_record(
    grid: Grid,
    first: Prepared,
    runs: Sequence[Runs],
    rows: list[Json],
    course: Course,
    known: Json,
    status: str,
) -> Json:
    """The content of compare.json.

    Args:
        known: base, device and versions, as all parts of the folder have them.
        status: `unfinished` on the way, `incomplete` if parts failed that may be tried again, or
            `finished`.
    """
    recipe, training = first.recipe, first.recipe.training
    full = next(of for of in runs if of.contender.is_baseline)
    whole = num_steps(first)
    margin = margin_of(grid, full)
    tokens = first.encoded.train.num_tokens / len(first.encoded.train) * training.batch_size
    return {
        "status": status,
        "name": recipe.task.kind(),
        "created": course.last_done().isoformat(sep=" ", timespec="minutes"),
        **{name: known[name] for name in ("device", "versions", "base")},
        "task": recipe.task.kind(),
        "data": recipe.task.source.path,
        "split_rows": {name: len(rows) for name, rows in first.encoded.splits().items()},
        "metric": grid.metric,
        "higher_is_better": grid.higher_is_better,
        "margin": margin,
        "budget": {
            "num_epochs": training.num_epochs,
            "num_steps": whole,
            "batch_size": training.batch_size,
            "tokens": round(tokens * whole),
            "trials": grid.budget.num_trials,
            "search_steps": steps_of_search(whole),
            "num_seeds": grid.budget.num_seeds,
        },
        "before": full.seeds[0]["before"] if full.seeds else None,
        "learned": [of.contender.name for of in runs if of.seeds and has_learned(grid, of, margin)],
        "seconds": course.seconds,
        "command": _command(grid, course.folder.path / "recipes"),
        "held_fixed": _held_fixed(
            recipe, whole, known["base"]["sha256"], grid.budget.retention, grid.budget.num_trials
        ),
        "notes": notes_of(grid, rows, course.failures),
        "rows": rows,
    }


def _command(grid: Grid, folder: Path) -> str:
    """Compares the same again.

    Args:
        folder: of the recipes as they were resolved.
    """
    budget = grid.budget
    files = {folder / f"{of.name}.json" for of in grid.contenders}
    if files == set(folder.glob("*.json")):
        parts = [f"peftkit compare {shlex.quote(str(folder))}/*.json"]
    else:  # the folder has recipes of an earlier comparison
        parts = ["peftkit compare", *(shlex.quote(str(file)) for file in sorted(files))]
    parts += [f"--trials {budget.num_trials}", f"--seeds {budget.num_seeds}"]
    parts += [f"--margin {budget.margin:g}"] if budget.margin is not None else []
    if budget.retention is not None:
        retention = budget.retention
        parts += [f"--retain {shlex.quote(retention.path)} --retain-rows {retention.max_rows}"]
    elif grid.contenders[0].recipe.task.goes_on:
        parts += ["--retain none"]
    modules = {module for of in grid.contenders for module in foreign_modules(of.recipe)}
    parts += [f"--trust-module {shlex.quote(module)}" for module in sorted(modules)]
    return " ".join([*parts, "--output-dir again"])


def _held_fixed(
    recipe: Recipe, num_steps: int, sha256: str, retention: Retention | None, num_rates: int
) -> list[tuple[str, str]]:
    training = recipe.training
    rates = "as many for each method, half a decade apart, around its recipe's"
    if num_rates == 1:
        rates = "each recipe's own; none was tried before"
    found = [
        ("base", f"{recipe.base.name_or_path}, sha256 {sha256[:12]}"),
        ("rows and their splits", f"split seed {recipe.split_seed}"),
        ("order of the rows", "by the run's seed, the same for all methods"),
        ("optimizer steps", f"{num_steps} of {plural(training.batch_size, 'example')}"),
        ("all else of training", _settings(recipe)),
        ("early stopping", "none; the weights of the best validation are scored"),
        ("learning rates", rates),
        ("weights that are trained", "float32, those of full fine-tuning too"),
    ]
    if retention is not None:
        text = f"{retention.path}, {retention.max_rows} of at most {retention.max_length} tokens"
        found.append(("general text", text))
    return found


def _settings(recipe: Recipe) -> str:
    """What recipes of one comparison have in common, where it is not the default."""
    training, default = recipe.training, Training()
    changed = [
        f"{name} {getattr(training, name)}"
        for name in type(training).model_fields
        if f"training.{name}" not in FREE and getattr(training, name) != getattr(default, name)
    ]
    return ", ".join(changed) or "as by default"
