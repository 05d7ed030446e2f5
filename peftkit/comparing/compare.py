"""Compares methods: every one tries the same number of learning rates on validation, and is then
run with several seeds beside full fine-tuning, on the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from peftkit.adapters.record import versions
from peftkit.bases.fingerprint import fingerprint
from peftkit.comparing import trials
from peftkit.comparing.apart import apart
from peftkit.comparing.course import Course, Job
from peftkit.comparing.folder import alone_in, open_folder
from peftkit.comparing.grid import (
    SEARCHED,
    Budget,
    Contender,
    Grid,
    for_search,
    foreign_files,
    make_grid,
)
from peftkit.comparing.jobs import (
    all_jobs,
    merge_job,
    merges,
    num_steps,
    probe_job,
    rate_jobs,
    retention_jobs,
    seed_job,
)
from peftkit.comparing.probe import has_probe
from peftkit.comparing.report import write_report
from peftkit.comparing.table import (
    Runs,
    best_rate,
    make_rows,
    margin_of,
    notes_of,
    read_scores,
    seed_result,
)
from peftkit.errors import MethodError, RecipeError, quoted
from peftkit.evaluation.retention import load_texts
from peftkit.preparing import Prepared, prepare
from peftkit.recipe import Recipe
from peftkit.training.devices import device_name, open_accelerator

Json = dict[str, Any]
DEFAULT_FOLDER = "runs/compare"
STARTS = 3
"""What starting, loading, checking and saving take besides, in times of reading the data."""


@dataclass(frozen=True)
class Comparison:
    """What a comparison leaves behind."""

    folder: Path
    record: Json
    """The content of compare.json."""


def compare(
    recipes: Sequence[Recipe],
    output_dir: str = "",
    budget: Budget | None = None,
    console: Console | None = None,
) -> Comparison:
    """Compares recipes that differ in the method; goes on where it was broken off.

    Args:
        recipes: of one base, task and data; full fine-tuning is added if none has it.
        output_dir: a new folder, or that of the same comparison; `runs/compare` if not given.
        budget: how many rates and seeds.
        console: where progress is printed; nowhere if not given.

    Raises:
        PeftkitError: a recipe, its data or its base is wrong. Runs that fail are rows that say so.
    """
    console = console or Console(quiet=True)
    grid, first = prepare_grid(recipes, budget or Budget())
    folder = open_folder(output_dir or DEFAULT_FOLDER, _identity(grid, first))
    for of in grid.contenders:
        folder.write(f"recipes/{of.name}.json", json.loads(of.recipe.to_json()))
    course = Course(folder, console, all_jobs(grid, first), _finisher(grid, first))
    with alone_in(folder):
        record = _compared(grid, first, course)
        folder.write("compare.json", record)
        write_report(folder.path, record)
    return Comparison(folder.path, record)


def _compared(grid: Grid, first: Prepared, course: Course) -> Json:
    """Does all parts that are not done; gives the content of compare.json."""
    rates = {of.name: _rates_of(of, course, first) for of in grid.contenders}
    seeds: dict[str, list[Json]] = {of.name: [] for of in grid.contenders}
    for seed in grid.seeds:  # so that what there is of all can be looked at early
        for of in grid.contenders:
            rate = best_rate(rates[of.name], grid.higher_is_better)
            if rate is None:
                course.skip()
            else:
                seeds[of.name].append(course.do(seed_job(of, rate, seed, grid, first)))
    runs = [_runs(of, rates[of.name], seeds[of.name], grid, course) for of in grid.contenders]
    probe = course.do(probe_job(first)) if has_probe(first.recipe.task) else {"failed": "no head"}
    kept = {name: course.do(job).get("kept_loss") for name, job in retention_jobs(grid).items()}
    rows = make_rows(grid, runs, None if probe["failed"] else probe, kept)
    return _record(grid, first, runs, rows, course)


def prepare_grid(recipes: Sequence[Recipe], budget: Budget) -> tuple[Grid, Prepared]:
    """What will be compared, and the baseline; everything is checked that needs no weights.

    Raises:
        PeftkitError: see `compare`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RecipeError(
            "a comparison starts its runs itself, one after the other, each in one process",
            "call `peftkit compare` without `accelerate launch`",
        )
    grid = make_grid(recipes, budget)
    first = prepare(grid.contenders[0].recipe)
    whole = num_steps(first)
    for of in grid.contenders:
        if not of.is_baseline:
            prepare(of.recipe)
        search = for_search(of.recipe, whole).training.max_steps or whole
        if reason := of.recipe.method.supports_steps(search):
            told = f"a learning rate is tried in {search} steps, a quarter of all: {reason}"
            raise MethodError(f"`{of.name}`: {told}")
    task = first.recipe.task
    if grid.metric not in task.comparable:
        raise RecipeError(
            f"`training.metric` is `{grid.metric}`, which is no mean over examples, so that two "
            "methods cannot be told apart by it",
            f"compare by {quoted(task.comparable) or 'a metric in `Score.by_example`'}",
        )
    if budget.retention is not None:
        if task.task_type != "CAUSAL_LM":
            raise RecipeError(
                "only language models have a loss on general text, and this task is none",
                "leave `--retain` out",
            )
        load_texts(budget.retention)
    return grid, first


def expect(grid: Grid) -> list[Json]:
    """About how long each contender's trials and runs will take, from a short measurement."""
    expected = []
    for of in grid.contenders:
        plan = apart(trials.expect, of.recipe.to_json(), foreign_files(of.recipe))
        start = STARTS * plan["prepare_seconds"]
        trained, scored = plan["seconds"]["training"], plan["seconds"]["evaluation"]
        trial = start + SEARCHED * trained + scored / 2
        run = start + trained + scored
        budget = grid.budget
        expected.append(
            {
                "name": of.name,
                "trial_seconds": trial,
                "run_seconds": run,
                "seconds": budget.num_trials * trial + budget.num_seeds * run,
                "peak_memory_mb": max(plan["peaks_mb"].values()),
            }
        )
    return expected


def _rates_of(of: Contender, course: Course, first: Prepared) -> list[Json]:
    """What each rate gave."""
    found = []
    for rate, job in zip(of.rates, rate_jobs(of, first), strict=True):
        given = course.do(job)
        kept = {name: given.get(name) for name in ("value", "best_step", "num_steps", "failed")}
        found.append({"learning_rate": rate, **kept})
    return found


def _finisher(grid: Grid, first: Prepared) -> Callable[[Job, Path, Json], Json]:
    """What is kept of a run."""
    per_epoch = -(-len(first.encoded.train) // first.recipe.training.batch_size)

    def finish(job: Job, folder: Path, given: Json) -> Json:
        return seed_result(folder, grid.metric, per_epoch, given) if job.folder else given

    return finish


def _runs(of: Contender, rates: list[Json], seeds: list[Json], grid: Grid, course: Course) -> Runs:
    """All that a contender's parts have left; its first run is merged too."""
    whole = [seed for seed in seeds if not seed["failed"]]
    folders = [course.folder.run_folder(f"{of.name}/seed-{seed['seed']}") for seed in whole]
    merged: Json = {}
    if whole and merges(of):
        merged = course.do(merge_job(of, folders[0]))
    failed = [found["failed"] for found in (*rates, *seeds) if found["failed"]]
    scores = [read_scores(folder, grid.metric) for folder in folders]
    reason = "" if whole else failed[0].split("\n")[0]
    return Runs(of, rates, whole, scores, reason, merged.get("peak_memory_mb"))


def _identity(grid: Grid, first: Prepared) -> Json:
    """What whoever goes on with a comparison must ask for again."""
    digest = hashlib.sha256()
    for examples in first.encoded.splits().values():
        for values in (*examples.input_ids, *examples.targets):
            digest.update(values.tobytes())
        digest.update(b"|")
    return {
        "recipes": [json.loads(of.recipe.to_json()) for of in grid.contenders],
        "rates": [of.rates for of in grid.contenders],
        "budget": json.loads(grid.budget.model_dump_json()),
        "base": fingerprint(first.base).sha256,
        "rows": digest.hexdigest(),
        "device": device_name(open_accelerator(first.recipe.base).device),
        "versions": versions(),
    }


def _record(
    grid: Grid, first: Prepared, runs: Sequence[Runs], rows: list[Json], course: Course
) -> Json:
    """The content of compare.json."""
    recipe, training = first.recipe, first.recipe.training
    full = next(of for of in runs if of.contender.is_baseline)
    whole = num_steps(first)
    search = for_search(recipe, whole).training.max_steps
    tokens = first.encoded.train.num_tokens / len(first.encoded.train) * training.batch_size
    return {
        "status": "finished",
        "name": recipe.task.kind(),
        "created": datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        "device": device_name(open_accelerator(recipe.base).device),
        "versions": versions(),
        "base": fingerprint(first.base).to_json(),
        "task": recipe.task.kind(),
        "data": recipe.task.source.path,
        "split_rows": {name: len(rows) for name, rows in first.encoded.splits().items()},
        "metric": grid.metric,
        "higher_is_better": grid.higher_is_better,
        "margin": margin_of(grid, full),
        "budget": {
            "num_epochs": training.num_epochs,
            "num_steps": whole,
            "batch_size": training.batch_size,
            "tokens": round(tokens * whole),
            "trials": grid.budget.num_trials,
            "search_steps": search,
            "num_seeds": grid.budget.num_seeds,
        },
        "before": full.seeds[0]["before"] if full.seeds else None,
        "seconds": course.seconds,
        "command": _command(grid, course.folder.path),
        "held_fixed": _held_fixed(recipe, first),
        "notes": notes_of(grid, rows),
        "rows": rows,
    }


def _command(grid: Grid, folder: Path) -> str:
    """Compares the same again, from the recipes as they were resolved."""
    budget = grid.budget
    parts = [f"peftkit compare {folder}/recipes/*.json"]
    parts += [f"--trials {budget.num_trials}", f"--seeds {budget.num_seeds}"]
    parts += [f"--margin {budget.margin:g}"] if budget.margin is not None else []
    parts += [f"--retain {budget.retention.path}"] if budget.retention else []
    return " ".join([*parts, "--output-dir again"])


def _held_fixed(recipe: Recipe, first: Prepared) -> list[tuple[str, str]]:
    training = recipe.training
    return [
        ("base", f"{recipe.base.name_or_path}, sha256 {fingerprint(first.base).sha256[:12]}"),
        ("rows and their splits", f"split seed {recipe.split_seed}"),
        ("order of the rows", "by the run's seed, the same for all methods"),
        ("optimizer steps", f"{num_steps(first)} of {training.batch_size} examples"),
        ("early stopping", "none; the weights of the best validation are scored"),
        ("learning rates", "as many for each method, half a decade apart, around its recipe's"),
        ("weights that are trained", "float32, those of full fine-tuning too"),
    ]
