"""The parts of a comparison, each with what it takes and what a person is told of it."""

from __future__ import annotations

from pathlib import Path

from peftkit.evaluation.frozen_probe import has_probe
from peftkit.experiments.comparing import work
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
from peftkit.experiments.jobs.queue import Job
from peftkit.experiments.jobs.work import run_seed, try_rate
from peftkit.stages.preparing import Prepared
from peftkit.training.forward.steps import number_of_steps

START = 10.0
"""What a part takes besides training, in optimizer steps; a guess, for the time left."""
BASE = "+base"
"""Where the base's own parts lie; no recipe has such a name."""


def num_steps(first: Prepared) -> int:
    """Optimizer steps of the whole budget."""
    return number_of_steps(first.recipe.training, first.encoded.train.num_units)


def all_jobs(grid: Grid, first: Prepared) -> list[Job]:
    """All parts, so far as their number and cost go: which rate is best is not known yet."""
    jobs = [job for of in grid.contenders for job in rate_jobs(of, first)]
    jobs += [
        seed_job(of, of.rates[0], seed, grid, first)
        for seed in grid.seeds
        for of in grid.contenders
    ]
    jobs += [merge_job(of, Path()) for of in grid.contenders if merges(of)]
    jobs += [probe_job(first)] if has_probe(first.encoded.head) else []
    return [*jobs, *retention_jobs(grid, first).values()]


def rate_jobs(of: Contender, first: Prepared) -> list[Job]:
    """One for each learning rate; none for one alone, which nothing has to choose."""
    if len(of.rates) == 1:
        return []
    search = for_search(of.recipe, num_steps(first))
    return [
        Job(
            f"{of.name}/rate-{rate:g}",
            START + steps_of_search(num_steps(first)),
            try_rate,
            (
                with_rate(search, rate, search.seed).to_json(),
                foreign_modules(search),
                first.encoded.sha256,
            ),
            tell=lambda found: f"validation {first.recipe.metric} {found['value']:.4f}",
        )
        for rate in of.rates
    ]


def seed_job(of: Contender, rate: float, seed: int, grid: Grid, first: Prepared) -> Job:
    """A run with the whole budget."""
    recipe = with_rate(for_seeds(of.recipe, num_steps(first)), rate, seed)
    retention = grid.budget.retention
    return Job(
        f"{of.name}/seed-{seed}-rate-{rate:g}",
        START + num_steps(first),
        run_seed,
        (recipe.to_json(), foreign_modules(recipe), first.encoded.sha256, retention),
        folder=True,
        tell=lambda found: f"test {grid.metric} {found['score']:.4f}",
    )


def merges(of: Contender) -> bool:
    """Whether what is trained can be merged."""
    return of.recipe.method.supports_merging(of.recipe.base) is None


def merge_job(of: Contender, folder: Path) -> Job:
    """Merges the run in a folder."""
    return Job(
        f"{of.name}/merge-{folder.name}",
        START,
        work.measure_merge,
        (foreign_modules(of.recipe), str(folder)),
        folder=True,
        tell=lambda found: f"{found['peak_memory_mb']:,.0f} MB",
    )


def probe_job(first: Prepared) -> Job:
    """The frozen probe."""
    return Job(
        PROBE,
        START,
        work.score_frozen,
        (first.recipe.to_json(), foreign_modules(first.recipe), first.encoded.sha256),
        tell=lambda found: f"C = {found['regularization']:g}",
    )


def retention_jobs(grid: Grid, first: Prepared) -> dict[str, Job]:
    """Of the untrained base, in each precision."""
    if grid.budget.retention is None:
        return {}
    found = {precision(of.recipe.base): of.recipe for of in reversed(grid.contenders)}
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
            tell=lambda found: f"loss on general text {found['kept_loss']:.4f}",
        )
        for name, recipe in found.items()
    }
