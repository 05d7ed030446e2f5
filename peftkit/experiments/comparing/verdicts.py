"""Judges whether a method is better than another, from both methods' scores on the same test rows.

A score is a function f of P, the sum of what the test rows add to it. p[s, i] is what row i of N
adds in the run with seed s of S. By the delta method, row i moves the score by moves[s, i]:

    moves[s, i] = N f'(P) p[s, i]                          P: sum over i, mean over s
    d[s, i] = moves_a[s, i] - moves_b[s, i]                methods a and b, paired by seed and row
    difference = mean over s of (f(P_a[s]) - f(P_b[s]))    P_a[s]: sum over i of p_a[s, i]
    (half an interval)^2 = t(S - 1)^2 V_seeds + t(N - 1)^2 (V_examples - V_residual)

Seeds and test rows are two crossed samples (two-way random effects; Searle, Casella & McCulloch
1992). V_seeds is the variance of the S means of d by seed, divided by S. V_examples is the variance
of the N means of d by row, divided by N. V_residual is the variance that is left when these means
are subtracted from d. Both V_seeds and V_examples contain it, so it is subtracted once.

t(n) is a quantile of Student's t with n degrees of freedom; n differs for seeds and rows, because
the variance of few seeds is uncertain (modified large-sample intervals; Graybill & Wang 1980). An
interval is never narrower than the interval from V_examples alone or from V_residual alone. If
answers are right or wrong, at least two are assumed to differ (Agresti & Min 2005), since agreement
in a few runs does not prove that methods are equal. Of 1,200 simulated comparisons of equal
methods, at most 5 % found a difference, with any mixture of the variances (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from peftkit.metrics.metric import Metric, mean
from peftkit.tasks.score import Parts

Floats = npt.NDArray[np.float64]
Statistic = Callable[[Floats], Floats]
Verdict = Literal["better", "worse", "equivalent", "undecided"]
ERROR_RATE = 0.05
"""Share of intervals that miss the true value, and share of equal methods that are judged `better`
or `worse`."""
SLOPE_OVER = 1e-5
"""Relative step of the finite differences from which a score's slope is computed."""


@dataclass(frozen=True)
class Estimate:
    """A score, or a difference of scores, with its 95 % interval over seeds and test examples."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """(lower end, upper end) of the interval."""
        return self.low, self.high


def estimate(seeds: Sequence[Parts], metric: Metric) -> Estimate:
    """Estimates a method's score over its seeds.

    Args:
        seeds: for each run, what each test example adds to the score.
    """
    parts, statistic = _table(seeds), metric.statistic
    value, moved = _value(parts, statistic), _moved(parts, statistic)
    if _is_share(parts, metric):
        return _clipped(_estimate(value, moved, counts=True), 0.0)
    return _estimate(value, moved)


def difference(ours: Sequence[Parts], others: Sequence[Parts], metric: Metric) -> Estimate:
    """Estimates the first method's score minus the second's, paired by seed and example.

    Args:
        ours: for each run of the first method, what each test example adds to the score.
        others: the same for the second method, whose runs have the same seeds in the same order.
    """
    parts, theirs, statistic = _table(ours), _table(others), metric.statistic
    assert parts.shape == theirs.shape, "not the same examples"
    value = _value(parts, statistic) - _value(theirs, statistic)
    moved = _moved(parts, statistic) - _moved(theirs, statistic)
    if _is_share(parts, metric) and _is_share(theirs, metric):
        return _clipped(_estimate(value, moved, counts=True), -1.0)
    return _estimate(value, moved)


def judge(gap: Estimate, margin: float, metric: Metric) -> Verdict:
    """The verdict on a difference of two methods' scores.

    `equivalent`: the whole interval is within the margin.
    `better` or `worse`: the interval extends beyond the margin and excludes zero.
    `undecided`: the interval extends beyond the margin and includes zero.

    Args:
        margin: largest difference that does not matter, in the score's unit.
    """
    if -margin <= gap.low and gap.high <= margin:
        return "equivalent"
    if gap.low > 0 or gap.high < 0:
        nearest = gap.low if gap.low > 0 else gap.high
        return "better" if metric.better(nearest, 0.0) else "worse"
    return "undecided"


def _table(seeds: Sequence[Parts]) -> Floats:
    """What each example adds to each run's score: (seeds, examples, numbers per example)."""
    return np.stack([seed.table for seed in seeds])


def _is_share(parts: Floats, metric: Metric) -> bool:
    """Whether the score is a share, such as F1 or the mean of answers that are right or wrong."""
    right_or_wrong = metric.statistic is mean and np.isin(parts[..., 0], (0.0, 1.0)).all()
    return metric.bounded or bool(right_or_wrong)


def _value(parts: Floats, statistic: Statistic) -> float:
    """The mean of the seeds' scores."""
    return float(statistic(parts.sum(axis=1)).mean())


def _moved(parts: Floats, statistic: Statistic) -> Floats:
    """How far each example moves the score, times the number of examples: (seeds, examples)."""
    sums = parts.sum(axis=1).mean(axis=0)
    steps = SLOPE_OVER * np.diag(np.maximum(np.abs(sums), 1.0))  # (k, k), one sum at a time
    slopes = (statistic(sums + steps) - statistic(sums - steps)) / (2 * steps.diagonal())
    moved: Floats = parts.shape[1] * (parts @ slopes)
    moved -= moved.mean()
    return moved


def _clipped(share: Estimate, low: float) -> Estimate:
    """Clips the interval of an estimate to the range from `low` to 1.

    Args:
        low: 0 for a share, -1 for a difference of shares.
    """
    return Estimate(share.value, max(low, share.low), min(1.0, share.high))


def _estimate(value: float, moved: Floats, counts: bool = False) -> Estimate:
    """A score, or a difference of scores, with its interval.

    Args:
        moved: the result of `_moved`, or the difference of two results: (seeds, examples).
        counts: whether the score is a share, or a difference of shares. If so, at least two
            examples are assumed to differ, even if none do (Agresti & Min 2005).
    """
    num_seeds, num_examples = moved.shape
    by_example, by_seed = moved.mean(axis=0), moved.mean(axis=1)
    of_examples = _t(num_examples) ** 2 * float(by_example.var(ddof=1)) / num_examples
    if counts:
        of_examples = max(of_examples, 2 * (_t(num_examples) / num_examples) ** 2)
    if num_seeds == 1:
        half = of_examples**0.5
    else:
        of_seeds = _t(num_seeds) ** 2 * float(by_seed.var(ddof=1)) / num_seeds
        rest = moved - by_example - by_seed[:, None]
        freedom = (num_examples - 1) * (num_seeds - 1)
        residual = float((rest**2).sum()) / freedom / (num_examples * num_seeds)
        of_rest = _t(num_examples) ** 2 * residual
        half = max(of_seeds + max(0.0, of_examples - of_rest), of_examples, of_rest) ** 0.5
    return Estimate(value, value - half, value + half)


def _t(count: int) -> float:
    """Quantile of Student's t for a 95 % interval of the mean of `count` values."""
    return float(t.ppf(1 - ERROR_RATE / 2, count - 1))
