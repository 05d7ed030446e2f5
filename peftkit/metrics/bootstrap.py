"""How far a score may be off by the luck of the test rows (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
RESAMPLES = 1000


def paired_interval(
    ours: npt.NDArray[np.float64],
    others: npt.NDArray[np.float64],
    weights: npt.NDArray[np.float64],
) -> tuple[float, float]:
    """95 % percentile interval of the difference of two means over the same rows, resampled
    together: sum of (ours - others) / sum of weights.
    """
    # rows whose difference and weight are the same are alike: a resample is one multinomial draw
    kinds, counts = np.unique(np.stack([ours - others, weights]), axis=1, return_counts=True)
    random = np.random.default_rng(0)
    share = counts / counts.sum()
    sums = np.array([kinds @ random.multinomial(len(ours), share) for _ in range(RESAMPLES)])
    means = sums[:, 0] / sums[:, 1]
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def bootstrap_intervals(
    expected: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    num_labels: int,
    statistics: Mapping[str, Callable[[Counts], float]],
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval of each statistic of the confusion matrix, over resampled rows.

    Rows with the same (expected, predicted) are alike, so that a resample of the rows is one
    multinomial draw of the matrix's cells.
    """
    cells = np.bincount(expected * num_labels + predicted, minlength=num_labels**2)
    occupied = cells.nonzero()[0]
    random = np.random.default_rng(0)
    draws = random.multinomial(len(expected), cells[occupied] / len(expected), size=RESAMPLES)
    values: dict[str, list[float]] = {name: [] for name in statistics}
    counts = np.zeros(num_labels**2, np.int64)
    for draw in draws:
        counts[occupied] = draw
        for name, statistic in statistics.items():
            values[name].append(statistic(counts.reshape(num_labels, num_labels)))
    return {
        name: (float(np.quantile(of, 0.025)), float(np.quantile(of, 0.975)))
        for name, of in values.items()
    }
