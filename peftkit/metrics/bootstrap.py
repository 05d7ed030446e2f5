"""Bootstrap intervals: how far a score may be off by the luck of the test rows (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RESAMPLES = 1000


def paired_interval(
    ours: Floats, others: Floats, statistic: Callable[[Floats], Floats]
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of the first parts minus that of the second, over
    rows that are resampled together.

    Args:
        ours, others: (rows, k), of the same rows.
        statistic: as for `sums_interval`.
    """
    width = ours.shape[1]
    kinds, counts = np.unique(np.hstack([ours, others]), axis=0, return_counts=True)
    return sums_interval(
        kinds, lambda sums: statistic(sums[:, :width]) - statistic(sums[:, width:]), counts
    )


def sums_interval(
    parts: Floats, statistic: Callable[[Floats], Floats], counts: Counts | None = None
) -> tuple[float, float]:
    """95 % percentile interval of a statistic of sums over rows, which are resampled.

    Args:
        parts: (rows, k).
        statistic: of sums over rows, (resamples, k) to (resamples,).
        counts: how many rows have each of the parts; 1 if not given.
    """
    counts = np.ones(len(parts), np.int64) if counts is None else counts
    rows = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(rows, counts / rows, size=RESAMPLES)
    return _interval(statistic(draws @ parts))


def _interval(values: Floats) -> tuple[float, float]:
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))
