"""Scores of predicted numbers: RMSE, MAE and R²."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from peftkit.metrics.correlation import METRICS as CORRELATIONS
from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float64]


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


METRICS = {
    "rmse": Metric("rmse", higher_is_better=False, statistic=root_mean),
    "mae": Metric("mae", higher_is_better=False),
    "r2": Metric("r2", statistic=r2),
    "spearman": CORRELATIONS["spearman"],
}
"""Metrics of predicted numbers."""
