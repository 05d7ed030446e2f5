"""How well a classifier's probabilities tell how often it is right (Guo et al. 2017,
arXiv:1706.04599).

ECE = sum over bins of |share of right answers - mean probability| x rows in the bin / rows
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
BINS = 15
"""Number of bins of equal width from 0 to 1."""
RANGE = (1 / 20, 20.0)
"""Lowest and highest temperature that is tried."""


def expected_calibration_error(probabilities: Floats, right: Floats) -> float:
    """Returns the expected calibration error, from 0 to 1.

    Args:
        probabilities: (rows,), the probability of each row's chosen class.
        right: (rows,), 1 if the chosen class is the expected one, else 0.
    """
    bins = np.minimum((probabilities * BINS).astype(int), BINS - 1)
    gaps = np.bincount(bins, right - probabilities, BINS)
    return float(np.abs(gaps).sum() / len(right))


def fit_temperature(logits: npt.NDArray[np.floating], expected: npt.NDArray[np.int64]) -> float:
    """Returns the temperature T for which softmax(logits / T) has the least cross-entropy.

    As if each class had been seen once more, the expected class of a row has the probability
    (rows + 1) / (rows + classes) (Platt 1999). Else T would go to 0 if all rows are right.

    Args:
        logits: (rows, classes).
        expected: (rows,), indices of the expected classes.
    """
    from scipy.optimize import minimize_scalar
    from scipy.special import log_softmax

    rows, classes = logits.shape
    other = 1 / (rows + classes)  # probability of each class that is not expected

    def loss(log_temperature: float) -> float:
        log_p = log_softmax(logits / np.exp(log_temperature), axis=1)
        of_expected = log_p[np.arange(rows), expected]
        return -float(((1 - classes * other) * of_expected + other * log_p.sum(axis=1)).mean())

    low, high = np.log(RANGE)
    found = minimize_scalar(loss, bounds=(low, high), method="bounded")
    return float(np.exp(found.x))
