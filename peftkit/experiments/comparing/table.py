"""The rows of a comparison, made from what its runs have left."""

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
"""A method is as good as there, on the way, when no more than this share is missing."""
MARGIN = 0.01
LEAST_SEEDS = 2
"""Runs of both that a verdict needs: one says nothing of the luck of others."""


def make_rows(
    grid: Grid,
    runs: Sequence[Runs],
    probe: ProbeScore | None,
    kept_by_base: Mapping[str, float | None],
) -> tuple[Row, ...]:
    """The table: the baseline, the methods by their score, the frozen probe.

    Args:
        kept_by_base: `precision` -> loss of the untrained base on general text.
    """
    metric = grid.metric
    full = next(own for own in runs if own.contender.is_baseline)
    margin = margin_of(grid, full)
    first, *others = (
        replace(
            _row(own, full, metric, margin, kept_by_base),
            difference_to_probe=_to_probe(own, probe, metric, margin),
        )
        for own in runs
    )
    others.sort(key=lambda row: (row.score is None, -metric.goodness(row.score or 0.0)))
    last = [_probe_row(probe, full, metric, margin)] if probe else []
    return (first, *others, *last)


def margin_of(grid: Grid, full: Runs) -> float:
    """Largest difference that does not matter."""
    if grid.budget.margin is not None:
        return grid.budget.margin
    if grid.metric.higher_is_better or not full.scores:
        return MARGIN
    return MARGIN * estimate(full.scores, grid.metric).value


def _row(
    own: Runs, full: Runs, metric: Metric, margin: float, kept_by_base: Mapping[str, float | None]
) -> Row:
    contender = own.contender
    base = contender.recipe.base
    row = _judged(
        Row(
            name=contender.name,
            method=contender.recipe.method.kind(),
            role="baseline" if contender.is_baseline else "method",
            precision=base.quantization if base.quantization != "none" else base.dtype,
            learning_rate=own.rate,
            rates=own.rates,
            trained_out=is_trained_out(own.seeds),
            failed=own.failed,
        ),
        own,
        full,
        metric,
        margin,
    )
    if not own.seeds:
        return row
    seeds = own.seeds
    if base.quantization == "none":
        row = replace(row, precision=seeds[0].precision)
    if (kept := kept_by_base.get(precision(base))) is not None:
        forgetting = [seed.kept_loss - kept for seed in seeds if seed.kept_loss is not None]
        pairs = zip(seeds, forgetting, strict=True)
        seeds = tuple(replace(seed, forgetting=by) for seed, by in pairs)
        row = replace(row, forgetting=fmean(forgetting))
    nearly = _seconds_to_nearly(own, full, metric)
    return _with_costs(row, seeds, nearly, own.merging_mb)


def _with_costs(
    row: Row, seeds: tuple[SeedRun, ...], nearly: float | None, merging_mb: float | None
) -> Row:
    """The row with what its runs took.

    Args:
        nearly: seconds until the score was nearly full fine-tuning's.
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


def _judged(row: Row, own: Runs, full: Runs, metric: Metric, margin: float) -> Row:
    """The row with its score, and its verdict beside full fine-tuning."""
    if not own.scores:
        return replace(row, verdict="failed")
    score = estimate(own.scores, metric)
    row = replace(row, score=score.value, interval=score.interval)
    if own is full:
        return replace(row, verdict="baseline")
    pairs = paired(own.by_seed, full.by_seed)
    if not pairs:
        return replace(row, verdict="undecided")
    ours, others = zip(*pairs, strict=True)
    gap = _gap(ours, others, metric, margin)
    return replace(row, difference_to_full=Gap(gap.value, gap.interval), verdict=gap.verdict)


def _gap(
    ours: Sequence[Parts], others: Sequence[Parts], metric: Metric, margin: float
) -> JudgedGap:
    """How much higher, and the verdict; of one run there is none."""
    gap = difference(ours, others, metric)
    enough = len(others) >= LEAST_SEEDS
    verdict = judge(gap, margin, metric) if enough else "undecided"
    return JudgedGap(gap.value, gap.interval, verdict)


def paired(ours: Mapping[int, Parts], others: Mapping[int, Parts]) -> list[tuple[Parts, Parts]]:
    """The scores of the seeds that both have."""
    return [(score, others[seed]) for seed, score in ours.items() if seed in others]


def _to_probe(
    own: Runs, probe: ProbeScore | None, metric: Metric, margin: float
) -> JudgedGap | None:
    """How a contender compares with the frozen probe."""
    if probe is None or len(own.scores) < LEAST_SEEDS:
        return None
    others = [probe.parts[metric.name]] * len(own.scores)
    return _gap(own.scores, others, metric, margin)


def _seconds_to_nearly(own: Runs, full: Runs, metric: Metric) -> float | None:
    """Mean training time until the validation score has 99 % of full fine-tuning's best; None if a
    seed never has.
    """
    if not full.seeds:
        return None
    best = fmean(
        metric.best(v.value for v in seed.validations if v.value is not None) for seed in full.seeds
    )
    wanted = best * (1 - NEARLY if metric.higher_is_better else 1 + NEARLY)
    times = []
    for seed in own.seeds:
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
    own = estimate([scores], metric)
    fit = ProbeFit(None, own.value, own.interval, (), (), probe.command)
    row = Row(
        name=PROBE,
        method="logistic regression",
        role="probe",
        precision="float32",
        regularization=probe.regularization,
        seeds=(fit,),
        score=own.value,
        interval=own.interval,
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
