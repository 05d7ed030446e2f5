"""Scores of predicted numbers: RMSE, MAE, R² and Spearman's rank correlation."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.metrics.bootstrap import RESAMPLES, TAIL
from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float64]
MOST_ROWS = 20_000
"""Largest number of rows for which `spearman` computes an interval, in about three seconds."""
CELLS = 2_000_000
"""Number of cells in the largest table of resamples; larger ones are computed in pieces."""


def root_mean(sums: Floats) -> Floats:
    """Square roots of means: sums of squares and of rows, (..., 2) -> (...,)."""
    roots: Floats = np.sqrt(sums[..., 0] / sums[..., 1])
    return roots


def r2(sums: Floats) -> Floats:
    """1 - (squared errors) / (squared distances of the expected numbers from their mean). If all
    expected numbers are equal, it is 1 without errors and 0 with errors, as in scikit-learn.

    Args:
        sums: (..., 4), sums of 1, y, y² and squared errors; the result has the shape (...,).
    """
    rows, total, squares, errors = np.moveaxis(np.asarray(sums, np.float64), -1, 0)
    spread = squares - total**2 / rows
    spread = np.where(spread > 1e-12 * squares, spread, 0.0)  # the difference of equal numbers
    some = np.divide(errors, spread, out=np.zeros_like(errors), where=spread > 0)
    return np.where(spread > 0, 1 - some, np.where(errors > 0, 0.0, 1.0))


def r2_parts(expected: Floats, predicted: Floats) -> Floats:
    """Returns (rows, 4), what each row adds to the sums of `r2`.

    Args:
        expected, predicted: (rows,), best with a mean near 0, else the sums lose digits.
    """
    errors = (predicted - expected) ** 2
    return np.stack([np.ones(len(errors)), expected, expected**2, errors], axis=1)


def spearman(expected: Floats, predicted: Floats) -> tuple[float, tuple[float, float] | None]:
    """Returns the correlation of ranks, and its 95 % bootstrap interval over rows, or None if there
    are more than `MOST_ROWS`. Equal numbers share the mean of their ranks. If all expected or all
    predicted numbers are equal, the correlation is 0.
    """
    rows = len(expected)
    rng = np.random.default_rng(0)
    value = float(_correlations(expected, predicted, np.ones((1, rows)))[0])
    if rows > MOST_ROWS:
        return value, None
    found, step = [], max(1, CELLS // rows)
    for start in range(0, RESAMPLES, step):
        draws = rng.multinomial(rows, np.full(rows, 1 / rows), min(step, RESAMPLES - start))
        found.append(_correlations(expected, predicted, draws.astype(np.float64)))
    low, high = np.quantile(np.concatenate(found), [TAIL, 1 - TAIL])
    return value, (float(low), float(high))


def _correlations(expected: Floats, predicted: Floats, counts: Floats) -> Floats:
    """Returns (resamples,), the correlation of ranks in each resample.

    Args:
        counts: (resamples, rows), how often each row occurs in a resample.
    """
    totals = counts.sum(axis=1, keepdims=True)
    x, y = (_ranks(values, counts) - (totals + 1) / 2 for values in (expected, predicted))
    covariance, xx, yy = ((counts * a * b).sum(axis=1) for a, b in ((x, y), (x, x), (y, y)))
    scale = np.sqrt(xx * yy)
    varied = scale > 1e-9 * totals[:, 0]
    correlations: Floats = np.divide(covariance, scale, out=np.zeros_like(scale), where=varied)
    return correlations


def _ranks(values: Floats, counts: Floats) -> Floats:
    """Returns (resamples, rows), the rank of each row's value in each resample; equal values have
    the mean of their ranks.
    """
    kinds, kind_of = np.unique(values, return_inverse=True)
    order = np.argsort(kind_of, kind="stable")
    firsts = np.searchsorted(kind_of[order], np.arange(len(kinds)))
    sizes = np.add.reduceat(counts[:, order], firsts, axis=1)  # (resamples, kinds)
    middles = np.cumsum(sizes, axis=1) - (sizes - 1) / 2
    ranks: Any = middles[:, kind_of]
    return np.asarray(ranks, np.float64)


METRICS = {
    "rmse": Metric("rmse", higher_is_better=False, statistic=root_mean),
    "mae": Metric("mae", higher_is_better=False),
    "r2": Metric("r2", statistic=r2),
    "spearman": Metric("spearman"),
}
"""Metrics of predicted numbers. `spearman` is no function of sums over rows: `statistic` does not
compute it."""
