"""Estimates, in a few seconds, the time of a comparison and the memory of its runs.

Measures one forward and backward pass of full fine-tuning on two small copies of the base. Another
method's time follows from the share of blocks that its gradients pass through. Its memory follows
from its number of trainable parameters and from the precision of the base's weights.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from accelerate import Accelerator

from peftkit.bases.devices import open_accelerator
from peftkit.errors import BaseModelError, PeftkitError, first_line
from peftkit.experiments.comparing.compare import DEFAULT_FOLDER
from peftkit.experiments.comparing.grid import SEARCHED, Budget, for_seeds
from peftkit.experiments.comparing.identity import common, identity
from peftkit.experiments.comparing.jobs import num_steps, rate_jobs
from peftkit.experiments.comparing.prepared_grid import prepare_all
from peftkit.experiments.jobs.folder import ComparisonFolder, check_folder
from peftkit.recipe import Recipe
from peftkit.stages.measuring import Cost, make_trial, measure
from peftkit.stages.plan import estimate_from_full
from peftkit.stages.preparing import Prepared

HOW = (
    "estimated from one forward and backward pass of full fine-tuning on two small copies of the "
    "base, measured now; other methods from the share of the blocks that their gradients pass "
    "through and from what they train. Slower layers of quantized bases, virtual tokens, written "
    "answers, merges and the frozen probe are not counted"
)
STARTS = 3
"""Ratio of two times: a run's time outside training and scoring, to the time to prepare its recipe.
"""
MEASURED_SECONDS = 0.2
"""Seconds for which a pass is repeated to measure its time; a pass runs at least twice."""


@dataclass(frozen=True)
class Expected:
    """Expected time and memory of a contender's unfinished trials and runs."""

    name: str
    trial_seconds: float
    """Seconds of one trial."""
    run_seconds: float
    """Seconds of one run."""
    trials_left: int
    runs_left: int
    seconds: float
    """Seconds of all unfinished trials and runs."""
    peak_memory_mb: float


@dataclass(frozen=True)
class _Measured:
    """Measurements that are made once and used for all contenders."""

    cost: Cost
    """Time and memory of full fine-tuning."""
    reading: float
    """Seconds to prepare a recipe: to read and encode its data."""
    planning: float
    """Seconds to measure `cost`; every run repeats this measurement for its plan."""


def expect(recipes: Sequence[Recipe], output_dir: str, budget: Budget) -> list[Expected]:
    """Estimates time and memory of each contender's unfinished trials and runs; writes nothing.
    Takes the arguments of `compare`, and raises the same errors.
    """
    begun = time.perf_counter()
    grid, prepared = prepare_all(recipes, budget)
    reading = (time.perf_counter() - begun) / len(prepared)
    first = prepared[0]
    known = identity(grid, common(grid, first))
    folder = ComparisonFolder(check_folder(output_dir or DEFAULT_FOLDER, known))
    left = {}
    for contender in grid.contenders:
        jobs = rate_jobs(contender, first)
        trials = sum(folder.done(job.part, job.result) is None for job in jobs)
        runs = sum(not folder.has_run(contender.name, seed) for seed in grid.seeds)
        if trials + runs:
            left[contender.name] = (trials, runs)
    if not left:
        return []
    accelerator = open_accelerator(first.recipe.base)
    measured = _measure(first, reading, accelerator)
    return [
        _expected(each, num_steps(first), measured, *left[each.recipe.name])
        for each in prepared
        if each.recipe.name in left
    ]


def _measure(first: Prepared, reading: float, accelerator: Accelerator) -> _Measured:
    """Measures full fine-tuning on small copies of the base.

    Raises:
        BaseModelError: a small copy cannot be run.
    """
    begun = time.perf_counter()
    try:
        trial = make_trial(first.recipe, first.base, first.encoded, accelerator, timed=True)
        cost = measure(replace(trial, seconds=MEASURED_SECONDS))
    except PeftkitError:
        raise
    except Exception as error:  # unusual architectures may fail in any way
        raise BaseModelError(
            f"no small copy of `{first.base.name}` could be measured: {type(error).__name__}: "
            f"{first_line(error)}",
            "compare without `--dry-run`",
        ) from error
    return _Measured(cost, reading, time.perf_counter() - begun)


def _expected(
    prepared: Prepared, steps: int, measured: _Measured, trials: int, runs: int
) -> Expected:
    """Estimates time and memory of a contender's unfinished trials and runs."""
    recipe = for_seeds(prepared.recipe, steps)
    parameters = prepared.trainable_parameters, prepared.total_parameters
    peak, stages = estimate_from_full(
        recipe,
        prepared.base,
        prepared.encoded,
        parameters,
        prepared.trained_share,
        measured.cost,
    )
    trained, scored = stages["training"], stages["evaluation"]
    start = STARTS * measured.reading
    trial = start + SEARCHED * trained + scored / 2
    run = start + measured.planning + trained + scored
    seconds = trials * trial + runs * run
    return Expected(recipe.name, trial, run, trials, runs, seconds, peak)
