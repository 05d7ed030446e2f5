"""Bootstrap intervals: how much a score depends on which test rows were drawn (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from peftkit.metrics.metric import Metric

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
TAIL = 0.025
"""Probability of a value outside an interval, on each side."""


def paired_interval(
    ours: Floats, others: Floats, statistic: Callable[[Floats], Floats]
) -> tuple[float, float]:
    """95 % percentile interval of the difference between two models' scores, ours minus theirs.
    Both models' rows are resampled together.

    Args:
        ours, others: (rows, k), what each row adds to a model's sums; rows in the same order.
        statistic: see `sums_interval`.
    """
    width = ours.shape[1]
    kinds, counts = np.unique(np.hstack([ours, others]), axis=0, return_counts=True)
    return sums_interval(
        kinds, lambda sums: statistic(sums[:, :width]) - statistic(sums[:, width:]), counts
    )


def score_interval(metric: Metric, table: Any, counts: Counts | None = None) -> tuple[float, float]:
    """95 % interval of a score. It is the bootstrap's, unless a share is 0 or 1 in every resample;
    then it is the interval for a share that no row differs from (Clopper & Pearson 1934).

    Args:
        table: (rows, k), what each row adds to the score's sums; an array, or a sparse one.
        counts: see `sums_interval`.
    """
    low, high = sums_interval(table, metric.statistic, counts)
    if not (metric.bounded and low == high and low in (0.0, 1.0)):
        return low, high
    adds = np.asarray(abs(table).sum(axis=1)).ravel() > 0  # other rows are not what it is about
    rows = max(1, int((adds if counts is None else adds * counts).sum()))
    least = TAIL ** (1 / rows)  # a share below it would rarely show no row that differs
    return (least, 1.0) if low else (0.0, 1.0 - least)


def sums_interval(
    parts: Any, statistic: Callable[[Floats], Floats], counts: Counts | None = None
) -> tuple[float, float]:
    """95 % percentile interval of a score computed from sums over rows, which are resampled.

    Args:
        parts: (rows, k), what each row adds to the sums; an array, or a sparse one.
        statistic: computes the score: sums (resamples, k) -> (resamples,).
        counts: (rows,), how often each row of `parts` occurs; once if not given.
    """
    counts = np.ones(parts.shape[0], np.int64) if counts is None else counts
    rows = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(rows, counts / rows, size=RESAMPLES)
    values = statistic(draws @ parts)
    return float(np.quantile(values, TAIL)), float(np.quantile(values, 1 - TAIL))
