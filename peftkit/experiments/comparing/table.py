"""Makes the rows of a comparison from the results of its runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean

from peftkit.experiments.comparing.comparison import Gap, JudgedGap, ProbeFit, Row, SeedRun
from peftkit.experiments.comparing.grid import PROBE, Grid, precision
from peftkit.experiments.comparing.probe import ProbeScore
from peftkit.experiments.comparing.runs import Runs
from peftkit.experiments.comparing.trained_out import is_trained_out
from peftkit.experiments.comparing.verdicts import difference, estimate, judge
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Parts

NEARLY = 0.01
"""A score is near full fine-tuning's score F if it is worse than F by at most this share of F."""
MARGIN = 0.01
"""Default margin: a difference of scores; for a loss, a share of full fine-tuning's loss."""
LEAST_SEEDS = 2
"""Minimum number of runs per method for a verdict: one run shows no spread between seeds."""


def make_rows(
    grid: Grid,
    runs: Sequence[Runs],
    probe: ProbeScore | None,
    kept_by_base: Mapping[str, float | None],
) -> tuple[Row, ...]:
    """Makes the table's rows: the baseline, the methods from best to worst, the frozen probe.

    Args:
        kept_by_base: precision -> the untrained base's loss on general text in this precision.
    """
    metric = grid.metric
    full = next(each for each in runs if each.contender.is_baseline)
    margin = margin_of(grid, full)
    first, *others = (
        replace(
            _row(each, full, metric, margin, kept_by_base),
            difference_to_probe=_to_probe(each, probe, metric, margin),
        )
        for each in runs
    )
    others.sort(key=lambda row: (row.score is None, -metric.goodness(row.score or 0.0)))
    last = [_probe_row(probe, full, metric, margin)] if probe else []
    return (first, *others, *last)


def margin_of(grid: Grid, full: Runs) -> float:
    """The margin of a comparison: the budget's margin, or by default `MARGIN`."""
    if grid.budget.margin is not None:
        return grid.budget.margin
    if grid.metric.higher_is_better or not full.scores:
        return MARGIN
    return MARGIN * estimate(full.scores, grid.metric).value


def _row(
    runs: Runs, full: Runs, metric: Metric, margin: float, kept_by_base: Mapping[str, float | None]
) -> Row:
    contender = runs.contender
    base = contender.recipe.base
    row = _with_verdict(
        Row(
            name=contender.name,
            method=contender.recipe.method.kind(),
            role="baseline" if contender.is_baseline else "method",
            precision=base.quantization if base.quantization != "none" else base.dtype,
            learning_rate=runs.rate,
            rates=runs.rates,
            trained_out=is_trained_out(runs.seeds),
            failed=runs.failed,
        ),
        runs,
        full,
        metric,
        margin,
    )
    if not runs.seeds:
        return row
    seeds = runs.seeds
    if base.quantization == "none":
        row = replace(row, precision=seeds[0].precision)
    if (kept := kept_by_base.get(precision(base))) is not None:
        forgetting = [seed.kept_loss - kept for seed in seeds if seed.kept_loss is not None]
        pairs = zip(seeds, forgetting, strict=True)
        seeds = tuple(replace(seed, forgetting=by) for seed, by in pairs)
        row = replace(row, forgetting=fmean(forgetting))
    nearly = _seconds_to_nearly(runs, full, metric)
    return _with_costs(row, seeds, nearly, runs.merging_mb)


def _with_costs(
    row: Row, seeds: tuple[SeedRun, ...], nearly: float | None, merging_mb: float | None
) -> Row:
    """A copy of a row with the costs of its runs.

    Args:
        nearly: training seconds until the score came near full fine-tuning's score; see `NEARLY`.
    """
    first = seeds[0]
    return replace(
        row,
        seeds=seeds,
        command=first.command,
        trainable_parameters=first.trainable_parameters,
        total_parameters=first.total_parameters,
        adapter_bytes=first.adapter_bytes,
        seconds_per_epoch=fmean(seed.seconds_per_epoch for seed in seeds),
        seconds_to_best=fmean(seed.seconds_to_best for seed in seeds),
        seconds_to_99_of_full=nearly,
        peak_memory_mb={
            **{
                kind: max(seed.peak_memory_mb[kind] or 0.0 for seed in seeds)
                for kind in ("training", "evaluation")
            },
            "merging": merging_mb,
        },
        extra={name: fmean(seed.extra[name] for seed in seeds) for name in first.extra},
    )


def _with_verdict(row: Row, runs: Runs, full: Runs, metric: Metric, margin: float) -> Row:
    """A copy of a row with its score and its verdict against full fine-tuning."""
    if not runs.scores:
        return replace(row, verdict="failed")
    score = estimate(runs.scores, metric)
    row = replace(row, score=score.value, interval=score.interval)
    if runs is full:
        return replace(row, verdict="baseline")
    pairs = paired(runs.by_seed, full.by_seed)
    if not pairs:
        return replace(row, verdict="undecided")
    ours, others = zip(*pairs, strict=True)
    gap = _gap(ours, others, metric, margin)
    return replace(row, difference_to_full=Gap(gap.value, gap.interval), verdict=gap.verdict)


def _gap(
    ours: Sequence[Parts], others: Sequence[Parts], metric: Metric, margin: float
) -> JudgedGap:
    """The difference of two methods' scores, and the verdict; `undecided` if runs are too few."""
    gap = difference(ours, others, metric)
    enough = len(others) >= LEAST_SEEDS
    verdict = judge(gap, margin, metric) if enough else "undecided"
    return JudgedGap(gap.value, gap.interval, verdict)


def paired(ours: Mapping[int, Parts], others: Mapping[int, Parts]) -> list[tuple[Parts, Parts]]:
    """Pairs both methods' scores by seed; leaves out seeds that only one method has."""
    return [(score, others[seed]) for seed, score in ours.items() if seed in others]


def _to_probe(
    runs: Runs, probe: ProbeScore | None, metric: Metric, margin: float
) -> JudgedGap | None:
    """A contender's difference to the frozen probe; None if there is no probe or too few runs."""
    if probe is None or len(runs.scores) < LEAST_SEEDS:
        return None
    others = [probe.parts[metric.name]] * len(runs.scores)
    return _gap(runs.scores, others, metric, margin)


def _seconds_to_nearly(runs: Runs, full: Runs, metric: Metric) -> float | None:
    """Training seconds until the validation score is within 1 % of full fine-tuning's best score,
    averaged over the seeds. None if one of the runs never reaches it.
    """
    if not full.seeds:
        return None
    best = fmean(
        metric.best(v.value for v in seed.validations if v.value is not None) for seed in full.seeds
    )
    wanted = best * (1 - NEARLY if metric.higher_is_better else 1 + NEARLY)
    times = []
    for seed in runs.seeds:
        reached = [
            v.seconds
            for v in seed.validations
            if v.value is not None and not metric.better(wanted, v.value)
        ]
        if not reached:
            return None
        times.append(reached[0])
    return fmean(times)


def _probe_row(probe: ProbeScore, full: Runs, metric: Metric, margin: float) -> Row:
    scores = probe.parts[metric.name]
    score = estimate([scores], metric)
    fit = ProbeFit(None, score.value, score.interval, (), (), probe.command)
    row = Row(
        name=PROBE,
        method="logistic regression",
        role="probe",
        precision="float32",
        regularization=probe.regularization,
        seeds=(fit,),
        score=score.value,
        interval=score.interval,
        verdict="undecided",
        trainable_parameters=probe.trainable_parameters,
        adapter_bytes=4 * probe.trainable_parameters,
        seconds_to_best=probe.seconds,
        peak_memory_mb={**probe.peaks_mb, "merging": None},
        command=probe.command,
    )
    if len(full.scores) < LEAST_SEEDS:
        return row
    gap = _gap([scores] * len(full.scores), full.scores, metric, margin)
    return replace(row, difference_to_full=Gap(gap.value, gap.interval), verdict=gap.verdict)
