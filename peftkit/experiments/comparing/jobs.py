"""Makes the jobs of a comparison: trials, runs, merges, the probe, losses on general text."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from peftkit.evaluation.frozen_probe import has_probe
from peftkit.experiments.comparing import work
from peftkit.experiments.comparing.comparison import SeedRun
from peftkit.experiments.comparing.grid import (
    PROBE,
    Contender,
    Grid,
    for_search,
    for_seeds,
    foreign_modules,
    precision,
    steps_of_search,
    with_rate,
)
from peftkit.experiments.comparing.probe import ProbeScore
from peftkit.experiments.comparing.runs import probe_command, seed_run
from peftkit.experiments.comparing.work import MergePeak
from peftkit.experiments.jobs.queue import Job
from peftkit.experiments.jobs.work import KeptLoss, Trial, run_seed, try_rate
from peftkit.stages.preparing import Prepared
from peftkit.training.forward.steps import number_of_steps

START = 10.0
"""Guessed time of a job outside training, in optimizer steps; used to estimate the time left."""
BASE = "+base"
"""Contender name of the jobs on the base itself; no recipe can have this name."""


def num_steps(first: Prepared) -> int:
    """Number of optimizer steps of a run."""
    return number_of_steps(first.recipe.training, first.encoded.train.num_units)


def all_jobs(grid: Grid, first: Prepared) -> list[Job[Any]]:
    """All jobs of a comparison, to show progress and time left. The best learning rate of a
    contender is not known yet, so the jobs of its runs have its first rate as a placeholder.
    """
    jobs: list[Job[Any]] = [
        job for contender in grid.contenders for job in rate_jobs(contender, first)
    ]
    jobs += [
        seed_job(contender, contender.rates[0], seed, grid, first)
        for seed in grid.seeds
        for contender in grid.contenders
    ]
    jobs += [merge_job(contender, Path()) for contender in grid.contenders if merges(contender)]
    jobs += [probe_job(grid, first)] if has_probe(first.encoded) else []
    return [*jobs, *retention_jobs(grid, first).values()]


def rate_jobs(contender: Contender, first: Prepared) -> list[Job[Trial]]:
    """The jobs of a contender's trials, one for each learning rate; [] if it has only one rate."""
    if len(contender.rates) == 1:
        return []
    search = for_search(contender.recipe, num_steps(first))
    return [
        Job(
            f"{contender.name}/rate-{rate:g}",
            START + steps_of_search(num_steps(first)),
            try_rate,
            (
                with_rate(search, rate, search.seed).to_json(),
                foreign_modules(search),
                first.encoded.sha256,
            ),
            result=Trial,
            describe=lambda trial: f"validation {first.recipe.metric} {trial.value:.4f}",
        )
        for rate in contender.rates
    ]


def seed_job(
    contender: Contender, rate: float, seed: int, grid: Grid, first: Prepared
) -> Job[SeedRun]:
    """The job of a contender's run with one learning rate and seed."""
    recipe = with_rate(for_seeds(contender.recipe, num_steps(first)), rate, seed)
    retention, modules = grid.budget.retention, foreign_modules(recipe)
    per_epoch = -(-first.encoded.train.num_units // first.recipe.training.batch_size)
    return Job(
        f"{contender.name}/seed-{seed}-rate-{rate:g}",
        START + num_steps(first),
        run_seed,
        (recipe.to_json(), modules, first.encoded.sha256, retention),
        result=SeedRun,
        folder=True,
        keep=partial(seed_run, recipe, grid.metric, per_epoch, modules),
        describe=lambda run: f"test {grid.metric.name} {run.score:.4f}",
    )


def merges(contender: Contender) -> bool:
    """Whether a contender's adapter can be merged into its base."""
    return contender.recipe.method.refuses_merging(contender.recipe.base) is None


def merge_job(contender: Contender, folder: Path) -> Job[MergePeak]:
    """The job that merges the adapter in a run folder."""
    return Job(
        f"{contender.name}/merge-{folder.name}",
        START,
        work.measure_merge,
        (foreign_modules(contender.recipe), str(folder)),
        result=MergePeak,
        folder=True,
        describe=lambda peak: f"{peak.peak_memory_mb:,.0f} MB",
    )


def probe_job(grid: Grid, first: Prepared) -> Job[ProbeScore]:
    """The job that fits and scores the frozen probe."""

    def keep(score: ProbeScore, folder: Path) -> ProbeScore:
        file = folder.parents[1] / "recipes" / f"{grid.contenders[0].name}.json"
        return replace(score, command=probe_command(file))

    return Job(
        PROBE,
        START,
        work.score_frozen,
        (first.recipe.to_json(), foreign_modules(first.recipe), first.encoded.sha256),
        result=ProbeScore,
        keep=keep,
        describe=lambda score: f"C = {score.regularization:g}",
    )


def retention_jobs(grid: Grid, first: Prepared) -> dict[str, Job[KeptLoss]]:
    """Precision -> the job that measures the base's loss on general text in this precision."""
    if grid.budget.retention is None:
        return {}
    recipes = {
        precision(contender.recipe.base): contender.recipe
        for contender in reversed(grid.contenders)
    }
    return {
        name: Job(
            f"{BASE}/{name}",
            START,
            work.loss_of_base,
            (
                recipe.to_json(),
                foreign_modules(recipe),
                first.encoded.sha256,
                grid.budget.retention,
            ),
            result=KeptLoss,
            describe=lambda loss: f"loss on general text {loss.kept_loss:.4f}",
        )
        for name, recipe in recipes.items()
    }
