"""Chooses the learning rate of a contender's runs."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

from peftkit.experiments.comparing.comparison import Rate, SeedRun
from peftkit.experiments.jobs.done import Done
from peftkit.metrics.metric import Metric

COLLAPSE = 0.1
"""A run has collapsed if its validation score is worse than the score of its trial, by more than
this share of the trial's score."""


def best_rate(rates: Sequence[Rate], metric: Metric) -> float | None:
    """The rate with the best validation score; among equal scores, the lowest loss decides. None if
    all trials failed.
    """
    scored = [
        (
            -metric.goodness(rate.value),
            _loss(rate),
            rate.learning_rate,
        )
        for rate in rates
        if rate.value is not None
    ]
    return min(scored)[-1] if scored else None


def _loss(rate: Rate) -> float:
    return math.inf if rate.loss is None else rate.loss


def collapsed(run: Done[SeedRun], trial: float, metric: Metric) -> bool:
    """Whether a run failed, or has a much worse best validation score than its trial. False if the
    process of the run died.

    Args:
        trial: best validation score of the trial with the same learning rate.
    """
    if run.value is None:
        return not run.died  # a killed process does not show that the rate is bad
    best = metric.best(v.value for v in run.value.validations if v.value is not None)
    return metric.goodness(trial) - metric.goodness(best) > COLLAPSE * abs(trial)


def marked(rates: Sequence[Rate], too_high: float) -> tuple[Rate, ...]:
    """A copy of the rates in which the learning rate `too_high` is marked as too high."""
    return tuple(
        replace(rate, too_high=True) if rate.learning_rate == too_high else rate for rate in rates
    )
