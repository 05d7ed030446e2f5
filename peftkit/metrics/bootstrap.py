"""Bootstrap intervals: how much a score depends on which test rows were drawn (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RESAMPLES = 1000


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


def sums_interval(
    parts: Floats, statistic: Callable[[Floats], Floats], counts: Counts | None = None
) -> tuple[float, float]:
    """95 % percentile interval of a score computed from sums over rows, which are resampled.

    Args:
        parts: (rows, k), what each row adds to the sums.
        statistic: computes the score: sums (resamples, k) -> (resamples,).
        counts: (rows,), how often each row of `parts` occurs; once if not given.
    """
    return sums_intervals(parts, {"": statistic}, counts)[""]


def sums_intervals(
    parts: Any, statistics: Mapping[str, Callable[[Floats], Floats]], counts: Counts | None = None
) -> dict[str, tuple[float, float]]:
    """95 % percentile intervals of several scores computed from the same sums, by name.

    Args:
        parts: (rows, k), a dense or sparse array.
        statistics, counts: see `sums_interval`.
    """
    counts = np.ones(parts.shape[0], np.int64) if counts is None else counts
    rows = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(rows, counts / rows, size=RESAMPLES)
    sums = draws @ parts
    return {name: _interval(statistic(sums)) for name, statistic in statistics.items()}


def _interval(values: Floats) -> tuple[float, float]:
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))
