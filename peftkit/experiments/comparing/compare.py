"""Compares methods with full fine-tuning.

Each method tries the same number of learning rates on the validation split. Then it trains at the
best rate with several seeds. With the same seed, all methods read the same rows in the same order.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console

from peftkit.evaluation.frozen_probe import has_probe
from peftkit.experiments.comparing.comparison import FILE, Comparison, Rate, SeedRun
from peftkit.experiments.comparing.grid import Budget, Contender, Grid
from peftkit.experiments.comparing.identity import Common, common, identity
from peftkit.experiments.comparing.jobs import (
    all_jobs,
    merge_job,
    merges,
    probe_job,
    rate_jobs,
    retention_jobs,
    seed_job,
)
from peftkit.experiments.comparing.prepared_grid import prepare_grid
from peftkit.experiments.comparing.probe import ProbeScore
from peftkit.experiments.comparing.rates import best_rate, collapsed, marked
from peftkit.experiments.comparing.record import make_record
from peftkit.experiments.comparing.report import write_report
from peftkit.experiments.comparing.runs import Runs, read_scores
from peftkit.experiments.comparing.table import make_rows
from peftkit.experiments.jobs.done import Done
from peftkit.experiments.jobs.folder import open_folder
from peftkit.experiments.jobs.own_process import refuse_inner
from peftkit.experiments.jobs.queue import JobQueue
from peftkit.recipe import Recipe
from peftkit.stages.preparing import Prepared
from peftkit.wording import plural

DEFAULT_FOLDER = "runs/compare"


@dataclass(frozen=True)
class Compared:
    """What `compare` returns: the folder and the record of the comparison."""

    folder: Path
    record: Comparison
    """The content of compare.json."""


def compare(
    recipes: Sequence[Recipe],
    output_dir: str = "",
    budget: Budget | None = None,
    console: Console | None = None,
) -> Compared:
    """Compares recipes that differ only in the method; writes and returns the results.

    If `output_dir` holds an earlier comparison, only the missing parts are run, such as the parts
    for added recipes, rates or seeds.

    Args:
        recipes: recipes with the same base, task and data; full fine-tuning is added if missing.
        output_dir: a new folder, or the folder of a comparison on the same base and data;
            `runs/compare` if empty.
        budget: numbers of learning rates and seeds for each method; `Budget()` if not given.
        console: where progress is printed; if not given, nothing is printed.

    Raises:
        PeftkitError: a recipe, its data or its base is wrong. A failed run raises nothing; its row
            in the table says why it failed.
    """
    refuse_inner("comparison", "compare")
    console = console or Console(quiet=True)
    grid, first = prepare_grid(recipes, budget or Budget())
    shared = common(grid, first)
    with open_folder(output_dir or DEFAULT_FOLDER, identity(grid, shared)) as folder:
        queue = JobQueue(folder, console, all_jobs(grid, first))
        try:
            record = _run_all(grid, first, queue, shared)
        except (KeyboardInterrupt, SystemExit):
            progress = f"stopped after {queue.number} of {plural(len(queue.jobs), 'part')}"
            console.print(f"  {progress}; the same command resumes it", highlight=False)
            raise
    return Compared(folder.path, record)


def _run_all(grid: Grid, first: Prepared, queue: JobQueue, shared: Common) -> Comparison:
    """Runs all parts of a comparison that have no result yet; returns its record."""

    def write(
        status: str,
        runs: Sequence[Runs],
        probe: ProbeScore | None = None,
        kept: dict[str, float | None] | None = None,
    ) -> Comparison:
        rows = make_rows(grid, runs, probe, kept or {})
        record = make_record(grid, first, runs, rows, queue, shared, status)
        queue.folder.write(FILE, record.to_json())
        write_report(queue.folder.path, record)
        return record

    settled: dict[str, _Settled] = {}
    for contender in grid.contenders:
        rates = _rates_of(contender, queue, first)
        settled[contender.name] = _Settled(_chosen(contender, rates, grid), rates)
    seeds: dict[str, list[Done[SeedRun]]] = {contender.name: [] for contender in grid.contenders}
    for seed in grid.seeds:
        for contender in grid.contenders:
            rate = settled[contender.name].rate
            if rate is None:
                queue.skip()
                continue
            run = queue.do(seed_job(contender, rate, seed, grid, first))
            if seed == grid.seeds[0]:
                settled[contender.name], run = _settle(
                    contender, settled[contender.name], run, queue, grid, first
                )
            seeds[contender.name].append(run)
        runs = [
            _runs(contender, settled[contender.name], seeds[contender.name], grid, queue)
            for contender in grid.contenders
        ]
        write("unfinished", runs)  # readable before all seeds are done
    runs = [_with_merge(each, queue) for each in runs]
    probe = queue.do(probe_job(grid, first)).value if has_probe(first.encoded) else None
    texts = {name: queue.do(job).value for name, job in retention_jobs(grid, first).items()}
    kept = {name: loss.kept_loss if loss else None for name, loss in texts.items()}
    return write("incomplete" if queue.incomplete else "finished", runs, probe, kept)


def _rates_of(contender: Contender, queue: JobQueue, first: Prepared) -> tuple[Rate, ...]:
    """Tries each learning rate of a contender; returns the results. A single rate is not tried."""
    rates = []
    jobs = rate_jobs(contender, first)
    for rate, job in zip(contender.rates if jobs else (), jobs, strict=True):
        done = queue.do(job)
        if (trial := done.value) is None:
            rates.append(Rate(rate, None, failed=done.failed, died=done.died))
        else:
            rates.append(Rate(rate, trial.value, trial.loss, trial.best_step, trial.num_steps))
    return tuple(rates)


def _chosen(contender: Contender, rates: Sequence[Rate], grid: Grid) -> float | None:
    """The learning rate for a contender's runs: its only rate, or the rate with the best trial.
    None if all trials failed. None if the process of a trial died: a resumed comparison repeats the
    trial.
    """
    if not rates:
        return contender.rates[0]
    if any(rate.died for rate in rates):
        return None
    return best_rate(rates, grid.metric)


@dataclass(frozen=True)
class _Settled:
    """The learning rate chosen for a contender's runs, and the results of its trials."""

    rate: float | None
    """The chosen rate; None if no rate could be chosen."""
    tried: tuple[Rate, ...]


def _settle(
    contender: Contender,
    settled: _Settled,
    run: Done[SeedRun],
    queue: JobQueue,
    grid: Grid,
    first: Prepared,
) -> tuple[_Settled, Done[SeedRun]]:
    """Lowers the learning rate until the first run succeeds; returns (final rate, its first run).

    Trials have a quarter of the steps, so their best rate may be too high for a whole run. The next
    lower rate is taken while the run fails, or while its validation score is much worse than the
    score of the trial with the same rate.

    Args:
        settled: the best rate of the trials. Without trials, the only rate is never lowered.
        run: the run with this rate and the first seed.
    """
    reached = {rate.learning_rate: rate.value for rate in settled.tried if rate.value is not None}
    while (
        settled.rate in reached
        and settled.rate > min(reached)
        and collapsed(run, reached[settled.rate], grid.metric)
    ):
        lower = max(rate for rate in reached if rate < settled.rate)
        settled = _Settled(lower, marked(settled.tried, settled.rate))
        job = seed_job(contender, lower, grid.seeds[0], grid, first)
        queue.jobs.insert(queue.number, job)
        run = queue.do(job)
    return settled, run


def _runs(
    contender: Contender,
    settled: _Settled,
    seeds: Sequence[Done[SeedRun]],
    grid: Grid,
    queue: JobQueue,
) -> Runs:
    """Collects the results of a contender's trials and runs."""
    whole = tuple(
        replace(done.value, seconds_taken=done.seconds_taken) for done in seeds if done.value
    )
    scores = tuple(read_scores(queue.folder.path / run.folder, grid.metric) for run in whole)
    reasons = [rate.failed for rate in settled.tried] + [done.failed for done in seeds]
    failed = list(filter(None, reasons))
    reason = "" if whole or not failed else failed[0].split("\n")[0]
    return Runs(contender, settled.tried, settled.rate, whole, scores, reason)


def _with_merge(runs: Runs, queue: JobQueue) -> Runs:
    """A contender's results, with the peak memory of merging the adapter of its first run."""
    if not merges(runs.contender):
        return runs
    if not runs.seeds:
        queue.skip()
        return runs
    first = queue.folder.path / runs.seeds[0].folder
    peak = queue.do(merge_job(runs.contender, first)).value
    return replace(runs, merging_mb=peak.peak_memory_mb if peak else None)
