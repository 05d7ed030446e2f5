"""Compares methods: every one tries the same number of learning rates on validation, and is then
run with several seeds beside full fine-tuning, on the same rows in the same order.
"""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rich.console import Console

from peftkit.adapters.record import versions
from peftkit.bases.devices import device_name, open_accelerator
from peftkit.bases.fingerprint import fingerprint
from peftkit.data.packaged import sha256_of
from peftkit.errors import MethodError, RecipeError, quoted
from peftkit.evaluation.frozen_probe import has_probe
from peftkit.evaluation.retention import Retention, load_texts
from peftkit.experiments.comparing.grid import (
    Budget,
    Contender,
    Grid,
    foreign_modules,
    make_grid,
    steps_of_search,
)
from peftkit.experiments.comparing.jobs import (
    all_jobs,
    merge_job,
    merges,
    num_steps,
    probe_job,
    rate_jobs,
    retention_jobs,
    seed_job,
)
from peftkit.experiments.comparing.record import make_record
from peftkit.experiments.comparing.report import write_report
from peftkit.experiments.comparing.table import (
    Runs,
    best_rate,
    collapsed,
    make_rows,
    probe_command,
    read_scores,
    seed_result,
)
from peftkit.experiments.comparing.work import score_frozen
from peftkit.experiments.jobs.folder import Identity, open_folder
from peftkit.experiments.jobs.queue import Course, Job
from peftkit.experiments.jobs.work import run_seed
from peftkit.recipe import Recipe
from peftkit.stages.preparing import Prepared, prepare
from peftkit.wording import plural

Json = dict[str, Any]
DEFAULT_FOLDER = "runs/compare"


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
    """Compares recipes that differ in the method; goes on where it was broken off, and takes what
    is there of the same recipes if more of them, more rates or more seeds are asked for.

    Args:
        recipes: of one base, task and data; full fine-tuning is added if none has it.
        output_dir: a new folder, or that of a comparison on the same base and data;
            `runs/compare` if not given.
        budget: how many rates and seeds.
        console: where progress is printed; nowhere if not given.

    Raises:
        PeftkitError: a recipe, its data or its base is wrong. Runs that fail are rows that say so.
    """
    _refuse_inner()
    console = console or Console(quiet=True)
    grid, first = prepare_grid(recipes, budget or Budget())
    known = identity(grid, first)
    with open_folder(output_dir or DEFAULT_FOLDER, known) as folder:
        course = Course(folder, console, all_jobs(grid, first), _finisher(grid, first))
        try:
            record = _compared(grid, first, course, known.grid)
        except (KeyboardInterrupt, SystemExit):
            told = f"stopped after {course.number} of {plural(len(course.jobs), 'part')}"
            console.print(f"  {told}; the same command goes on", highlight=False)
            raise
    return Comparison(folder.path, record)


def _compared(grid: Grid, first: Prepared, course: Course, known: Json) -> Json:
    """Does all parts that are not done; gives the content of compare.json."""

    def write(status: str, probe: Json | None = None, kept: Json | None = None) -> Json:
        rows = make_rows(grid, runs, probe, kept or {})
        made = make_record(grid, first, runs, rows, course, known, status)
        record: Json = json.loads(json.dumps(made))  # as the file has it
        course.folder.write("compare.json", record)
        write_report(course.folder.path, record)
        return record

    rates = {of.name: _rates_of(of, course, first) for of in grid.contenders}
    chosen = {of.name: _chosen(of, rates[of.name], grid) for of in grid.contenders}
    seeds: dict[str, list[Json]] = {of.name: [] for of in grid.contenders}
    for seed in grid.seeds:
        for of in grid.contenders:
            name, rate = of.name, chosen[of.name]
            if rate is None:
                course.skip()
                continue
            run = course.do(seed_job(of, rate, seed, grid, first))
            if seed == grid.seeds[0]:
                chosen[name], run = _settled(of, rates[name], rate, run, course, grid, first)
            seeds[name].append(run)
        runs = [
            _runs(of, rates[of.name], chosen[of.name], seeds[of.name], grid, course)
            for of in grid.contenders
        ]
        write("unfinished")  # to be looked at early
    runs = [_merged(run, course) for run in runs]
    probe = course.do(probe_job(first)) if has_probe(first.encoded.head) else {"failed": "no head"}
    kept = {
        name: course.do(job).get("kept_loss") for name, job in retention_jobs(grid, first).items()
    }
    status = "incomplete" if course.incomplete else "finished"
    return write(status, None if probe["failed"] else probe, kept)


def _refuse_inner() -> None:
    """Raises RecipeError in the process of a part, which has imported the script anew."""
    if multiprocessing.parent_process() is not None:
        raise RecipeError(
            "the script that compares is imported by the processes of the comparison, too",
            'put its call under `if __name__ == "__main__":`',
        )


def _chosen(of: Contender, rates: Sequence[Json], grid: Grid) -> float | None:
    """The best rate, or the only one; None if there is none, or may be another one once all were
    tried.
    """
    if not rates:
        return of.rates[0]
    if any(rate["died"] for rate in rates):
        return None
    return best_rate(rates, grid.higher_is_better)


def _settled(
    of: Contender,
    rates: Sequence[Json],
    rate: float,
    run: Json,
    course: Course,
    grid: Grid,
    first: Prepared,
) -> tuple[float, Json]:
    """The rate with which all seeds are run, and the first of these runs. What is best in a quarter
    of the steps may be too high for all of them: while the run fails, or its best validation score
    is much worse than the trial's, the next lower rate is taken.

    Args:
        rates: what the trials gave; those that are too high are marked. None if there was nothing
            to choose from, and then the run is as it is.
        rate: the best of them.
        run: the first one with it.
    """
    tried = {found["learning_rate"]: found for found in rates if found["value"] is not None}
    while (
        tried and collapsed(run, tried[rate]["value"], grid.higher_is_better) and rate > min(tried)
    ):
        tried[rate]["too_high"] = True
        rate = max(lower for lower in tried if lower < rate)
        job = seed_job(of, rate, grid.seeds[0], grid, first)
        course.jobs.insert(course.number, job)
        run = course.do(job)
    return rate, run


def prepare_grid(recipes: Sequence[Recipe], budget: Budget) -> tuple[Grid, Prepared]:
    """What will be compared, and the baseline; as `prepare_all`."""
    grid, prepared = prepare_all(recipes, budget)
    return grid, prepared[0]


def prepare_all(recipes: Sequence[Recipe], budget: Budget) -> tuple[Grid, list[Prepared]]:
    """What will be compared, the baseline first; everything is checked that needs no weights, but
    for the general text, which `identity` reads.

    Raises:
        PeftkitError: see `compare`.
    """
    if os.environ.get("WORLD_SIZE", "1") != "1":
        raise RecipeError(
            "a comparison starts its runs itself, one after the other, each in one process",
            "call `peftkit compare` without `accelerate launch`",
        )
    grid = make_grid(recipes, budget)
    prepared: list[Prepared] = []
    for of in grid.contenders:
        own = prepare(of.recipe)
        first = prepared[0] if prepared else own
        if own.encoded.sha256 != first.encoded.sha256:
            raise RecipeError(
                f"`{of.name}` would read other examples than `{first.recipe.name}`: its virtual "
                "tokens leave less room for the text, which is cut or dropped earlier",
                f"lower `task.max_length` by {of.recipe.method.position_offset} or more for all",
            )
        prepared.append(replace(own, encoded=first.encoded))  # the same, held once
        search = steps_of_search(num_steps(first))
        if len(of.rates) > 1 and (reason := of.recipe.method.supports_steps(search)):
            told = (
                f"a learning rate is tried in {plural(search, 'step')}, a quarter of all: {reason}"
            )
            raise MethodError(f"`{of.name}`: {told}")
    task = first.recipe.task
    if (budget.margin or 0) >= 1 and grid.higher_is_better:
        raise RecipeError(
            f"a margin of {budget.margin:g} is more than all of {grid.metric}", "1 point is 0.01"
        )
    if grid.metric not in task.comparable:
        raise RecipeError(
            f"`training.metric` is `{grid.metric}`, which is no mean over examples, so that two "
            "methods cannot be told apart by it",
            f"compare by {quoted(task.comparable) or 'a metric in `Score.by_example`'}",
        )
    if budget.retention is not None and not task.goes_on:
        raise RecipeError(
            "only language models have a loss on general text, and this task is none",
            "leave `--retain` out",
        )
    return grid, prepared


def _rates_of(of: Contender, course: Course, first: Prepared) -> list[Json]:
    """What each rate gave; nothing where there is only one."""
    jobs, found = rate_jobs(of, first), []
    for rate, job in zip(of.rates if jobs else (), jobs, strict=True):
        given = course.do(job)
        kept = {name: given.get(name) for name in ("value", "loss", "best_step", "num_steps")}
        told = {"failed": given["failed"], "died": given.get("died", False), "too_high": False}
        found.append({"learning_rate": rate, **kept, **told})
    return found


def _finisher(grid: Grid, first: Prepared) -> Callable[[Job, Path, Json], Json]:
    """What is kept of a run."""
    per_epoch = -(-len(first.encoded.train) // first.recipe.training.batch_size)

    def finish(job: Job, folder: Path, given: Json) -> Json:
        if job.does is score_frozen:
            file = folder.parents[1] / "recipes" / f"{grid.contenders[0].name}.json"
            return {**given, "command": probe_command(file)}
        if job.does is not run_seed:
            return given
        of = next(of for of in grid.contenders if of.name == job.contender)
        modules = foreign_modules(of.recipe)
        return seed_result(folder, grid.metric, per_epoch, given, modules)

    return finish


def _runs(
    of: Contender,
    rates: list[Json],
    chosen: float | None,
    seeds: list[Json],
    grid: Grid,
    course: Course,
) -> Runs:
    """All that a contender's parts have left."""
    whole = [seed for seed in seeds if not seed["failed"]]
    folders = [course.folder.path / seed["folder"] for seed in whole]
    failed = [found["failed"] for found in (*rates, *seeds) if found["failed"]]
    scores = [read_scores(folder, grid.metric) for folder in folders]
    reason = "" if whole or not failed else failed[0].split("\n")[0]
    return Runs(of, rates, chosen, whole, scores, reason)


def _merged(runs: Runs, course: Course) -> Runs:
    """With the memory that it takes to merge the first run."""
    if not merges(runs.contender):
        return runs
    if not runs.seeds:
        course.skip()
        return runs
    first = course.folder.path / runs.seeds[0]["folder"]
    found = course.do(merge_job(runs.contender, first))
    return replace(runs, merging_mb=found.get("peak_memory_mb"))


def identity(grid: Grid, first: Prepared) -> Identity:
    """By which the comparison is known again."""
    common: Json = {
        "general_text": _general_text(grid.budget.retention),
        "base": fingerprint(first.base).to_json(),
        "data": first.encoded.sha256,
        "device": device_name(open_accelerator(first.recipe.base).device),
        "versions": versions(),
    }
    modules = {module for of in grid.contenders for module in foreign_modules(of.recipe)}
    return Identity(
        grid=common,
        recipes={of.name: json.loads(of.recipe.to_json()) for of in grid.contenders},
        code={module: sha256_of(_file_of(module)) for module in sorted(modules)},
    )


def _general_text(retention: Retention | None) -> Json | None:
    if retention is None:
        return None
    texts = "\0".join(load_texts(retention)).encode()
    settings: Json = json.loads(retention.model_dump_json())
    return {**settings, "sha256": hashlib.sha256(texts).hexdigest()}


def _file_of(module: str) -> Path:
    """Of a file, or of a module of a package, as `foreign_modules` names them."""
    loaded = sys.modules.get(module)
    return Path(loaded.__file__ if loaded and loaded.__file__ else module)
