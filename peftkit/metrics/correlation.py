"""Agreement of predicted and expected numbers: Pearson, Spearman and the area under the ROC curve.

These scores t are no functions of sums over rows. Each row gets t + L[i], where L[i] is how fast t
changes with the weight of row i (its empirical influence; the L sum to 0). The mean of these
numbers is t, and their variance is that of t (infinitesimal jackknife, Jaeckel 1972; for the area,
DeLong et al. 1988). So the scores have intervals, and models are compared on the same rows.

    below(x, w)[i] = mean over j of w[j] times 1 if x[j] < x[i], 1/2 if equal, 0 if x[j] > x[i]
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import Metric, mean

Floats = npt.NDArray[np.float64]
Numbers = npt.NDArray[np.floating[Any]]


def pearson_parts(predicted: Numbers, expected: Numbers) -> Floats:
    """(rows, 2), the parts of Pearson's correlation; it is 0 if one of the two is constant."""
    if np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return _parts(0.0, np.zeros(len(predicted)))
    x, y = (((v - v.mean()) / v.std()) for v in (_floats(predicted), _floats(expected)))
    value = float((x * y).mean())
    return _parts(value, x * y - value * (x**2 + y**2) / 2)


def spearman_parts(predicted: Numbers, expected: Numbers) -> Floats:
    """(rows, 2), the parts of Spearman's rank correlation, ties with their mean rank; it is 0 if
    one of the two is constant.
    """
    if np.ptp(predicted) == 0 or np.ptp(expected) == 0:
        return _parts(0.0, np.zeros(len(predicted)))
    x, y = _floats(predicted), _floats(expected)
    a, b = (below(v, np.ones(len(v))) - 0.5 for v in (x, y))  # ranks, scaled, with mean 0
    covariance, of_both = _moment(x, y, a, b)
    (variance_a, of_a), (variance_b, of_b) = _moment(x, x, a, a), _moment(y, y, b, b)
    scale = np.sqrt(variance_a * variance_b)
    value = covariance / scale
    influence = of_both / scale - value * (of_a / variance_a + of_b / variance_b) / 2
    return _parts(value, influence)


def auc_parts(predicted: Numbers, expected: Numbers) -> Floats:
    """(rows, 2), the parts of the area under the ROC curve: the probability that a row with 1 gets
    a higher prediction than a row with 0, where equal predictions count half. It is 1/2 if all rows
    are of one class.
    """
    positive = _floats(expected) > 0.5
    share = positive.mean()
    if share in (0.0, 1.0):
        return _parts(0.5, np.zeros(len(predicted)))
    x = _floats(predicted)
    above_negatives = below(x, ~positive / (1 - share))
    under_positives = 1 - below(x, positive / share)
    value = float(above_negatives[positive].mean())
    return _parts(
        value,
        np.where(
            positive, (above_negatives - value) / share, (under_positives - value) / (1 - share)
        ),
    )


def below(x: Floats, weights: Floats) -> Floats:
    """(rows,), for each row the mean weight of the rows below it; equal rows count half."""
    order = np.argsort(x, kind="stable")
    starts = np.flatnonzero(np.concatenate([[True], np.diff(x[order]) != 0]))
    sums = np.add.reduceat(weights[order], starts)
    before = np.cumsum(sums) - sums / 2
    result = np.empty(len(x))
    result[order] = np.repeat(before, np.diff(np.append(starts, len(x))))
    return result / len(x)


def _moment(x: Floats, y: Floats, a: Floats, b: Floats) -> tuple[float, Floats]:
    """The mean of a b, and its influence; a and b are the centred ranks of x and y."""
    value = float((a * b).mean())
    # a row with more weight also moves the ranks of the rows above it
    moved = (b.mean() - below(x, b)) + (a.mean() - below(y, a))
    influence = a * b + moved
    return value, influence - influence.mean()


def _floats(values: Numbers) -> Floats:
    return values.astype(np.float64)


def _parts(value: float, influence: Floats) -> Floats:
    return np.stack([value + influence, np.ones(len(influence))], axis=1)


def correlation(sums: Floats) -> Floats:
    """The correlation, (...,), from sums of its parts, (..., 2)."""
    values: Floats = np.clip(mean(sums), -1, 1)
    return values


def area(sums: Floats) -> Floats:
    """The area, (...,), from sums of its parts, (..., 2)."""
    values: Floats = np.clip(mean(sums), 0, 1)
    return values


METRICS = {
    "spearman": Metric("spearman", statistic=correlation),
    "pearson": Metric("pearson", statistic=correlation),
    "auc": Metric("auc", statistic=area, bounded=True),
}
