"""How far a score may be off by the luck of the test rows (Efron 1979)."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt

Counts = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
RESAMPLES = 1000
MOST_CELLS = 2**20
"""Of the confusion matrices of resamples that are computed at once."""


def paired_interval(
    ours: Floats, others: Floats, statistic: Callable[[Floats], Floats]
) -> tuple[float, float]:
    """95 % percentile interval of how much higher a statistic of the first parts is than of the
    second, over rows that are resampled together.

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
    """95 % percentile interval of a statistic of what the rows give to it, over resampled rows.

    Args:
        parts: (rows, k).
        statistic: of sums over rows, (resamples, k) to (resamples,).
        counts: how many rows give each of the parts; 1 if not given.
    """
    counts = np.ones(len(parts), np.int64) if counts is None else counts
    rows = int(counts.sum())
    draws = np.random.default_rng(0).multinomial(rows, counts / rows, size=RESAMPLES)
    return _interval(statistic(draws @ parts))


def bootstrap_intervals(
    expected: npt.NDArray[np.int64],
    predicted: npt.NDArray[np.int64],
    num_labels: int,
    statistics: Mapping[str, Callable[[Counts], Floats]],
) -> dict[str, tuple[float, float]]:
    """95 % percentile interval of each statistic of the confusion matrix, over resampled rows.

    Rows with the same (expected, predicted) are alike, so that a resample of the rows is one
    multinomial draw of the matrix's cells.

    Args:
        statistics: name -> function of matrices (resamples, labels, labels) to (resamples,).
    """
    cells = np.bincount(expected * num_labels + predicted, minlength=num_labels**2)
    occupied = cells.nonzero()[0]
    random = np.random.default_rng(0)
    draws = random.multinomial(len(expected), cells[occupied] / len(expected), size=RESAMPLES)
    values: dict[str, list[Floats]] = {name: [] for name in statistics}
    at_once = max(1, MOST_CELLS // num_labels**2)
    for start in range(0, RESAMPLES, at_once):
        some = draws[start : start + at_once]
        counts = np.zeros((len(some), num_labels**2), np.int64)
        counts[:, occupied] = some
        matrices = counts.reshape(-1, num_labels, num_labels)
        for name, statistic in statistics.items():
            values[name].append(statistic(matrices))
    return {name: _interval(np.concatenate(parts)) for name, parts in values.items()}


def _interval(values: Floats) -> tuple[float, float]:
    return float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975))
