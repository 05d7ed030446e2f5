"""Whether a method is better than another one, told from both on the same test examples.

    d[s, i] = a[s, i] - b[s, i]                       seed s of S, example i of N, paired
    difference = 1 / (S N) sum d[s, i]
    (half an interval)^2 = t(S - 1)^2 V_seeds + t(N - 1)^2 (V_examples - V_residual)

The seeds are a sample and the test examples are one, crossed with each other (two-way random
effects; Searle, Casella & McCulloch 1992). V_seeds is the variance of the seeds' means over S,
V_examples that of the examples' means over N; both hold the residual's, which is taken off once.
Half an interval is no less than the examples' part or the residual's alone would make it, and of
answers that are right or wrong at least two are taken to differ (Agresti & Min 2005): runs that
happen to agree are no proof. Each part has its own quantile of Student's t, as in the modified
large-sample intervals of Graybill & Wang (1980): where few seeds were run, their variance is itself
hardly known. Of 1,200 simulated comparisons without a difference, whatever the parts, at most 5 %
were called one (docs/log.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from scipy.stats import t

from peftkit.metrics.metric import Metric
from peftkit.tasks.score import ByExample

Floats = npt.NDArray[np.float64]
Verdict = Literal["better", "worse", "equivalent", "undecided"]
ERROR_RATE = 0.05
"""How often an interval misses, and a verdict of better or worse is wrong where there is no
difference."""


@dataclass(frozen=True)
class Estimate:
    """A score or a difference of scores with its 95 % interval over seeds and test examples."""

    value: float
    low: float
    high: float

    @property
    def interval(self) -> tuple[float, float]:
        """The lower and the upper end."""
        return self.low, self.high


def estimate(seeds: Sequence[ByExample]) -> Estimate:
    """A method's score over its seeds.

    Args:
        seeds: what the same test examples gave in each run.
    """
    values, weights = _table(seeds)
    if _is_right_or_wrong(values):
        return _clipped(_mean(values, weights, counts=True), 0.0)
    return _mean(values, weights)


def difference(ours: Sequence[ByExample], others: Sequence[ByExample]) -> Estimate:
    """How much higher the first method's score is, seed by seed and example by example.

    Args:
        ours: of the same test examples, in each run.
        others: as many, in the order of the same seeds.
    """
    values, weights = _table(ours)
    theirs, same = _table(others)
    assert np.array_equal(weights, same), "not the same examples"
    if _is_right_or_wrong(values) and _is_right_or_wrong(theirs):
        return _clipped(_mean(values - theirs, weights, counts=True), -1.0)
    return _mean(values - theirs, weights)


def judge(gap: Estimate, margin: float, metric: Metric) -> Verdict:
    """What a difference means.

    Equivalent if all of its interval is within the margin, better or worse if it is beyond zero;
    that an interval covers zero says nothing.

    Args:
        margin: largest difference that does not matter, in the score's unit.
    """
    if -margin <= gap.low and gap.high <= margin:
        return "equivalent"
    if gap.low > 0 or gap.high < 0:
        nearest = gap.low if gap.low > 0 else gap.high
        return "better" if metric.better(nearest, 0.0) else "worse"
    return "undecided"


def _table(seeds: Sequence[ByExample]) -> tuple[Floats, Floats]:
    """(seeds, examples) values and (examples,) weights, which are the same for all seeds."""
    weights = np.array(seeds[0].weights)
    return np.array([seed.values for seed in seeds]), weights


def _is_right_or_wrong(values: Floats) -> bool:
    """Whether each example counts 1 or 0."""
    return bool(np.isin(values, (0.0, 1.0)).all())


def _clipped(found: Estimate, low: float) -> Estimate:
    """With ends that a share, or a difference of shares, can have."""
    return Estimate(found.value, max(low, found.low), min(1.0, found.high))


def _mean(values: Floats, weights: Floats, counts: bool = False) -> Estimate:
    """The ratio of sums, and its interval by linearization.

    Args:
        values: (seeds, examples).
        weights: (examples,).
        counts: whether they are counts, or differences of counts: none that is different does not
            mean that none could be, so that two more are taken for granted (Agresti & Min 2005).
    """
    num_seeds, num_examples = values.shape
    mean = float(values.sum() / (num_seeds * weights.sum()))
    off = (values - mean * weights) / weights.mean()  # (seeds, examples), of mean 0
    by_example, by_seed = off.mean(axis=0), off.mean(axis=1)
    of_examples = _t(num_examples) ** 2 * float(by_example.var(ddof=1)) / num_examples
    if counts:
        of_examples = max(of_examples, 2 * (_t(num_examples) / num_examples) ** 2)
    if num_seeds == 1:
        half = of_examples**0.5
    else:
        of_seeds = _t(num_seeds) ** 2 * float(by_seed.var(ddof=1)) / num_seeds
        rest = off - by_example - by_seed[:, None]
        freedom = (num_examples - 1) * (num_seeds - 1)
        residual = float((rest**2).sum()) / freedom / (num_examples * num_seeds)
        of_rest = _t(num_examples) ** 2 * residual
        half = max(of_seeds + max(0.0, of_examples - of_rest), of_examples, of_rest) ** 0.5
    return Estimate(mean, mean - half, mean + half)


def _t(count: int) -> float:
    """The quantile of Student's t for the mean of so many."""
    return float(t.ppf(1 - ERROR_RATE / 2, count - 1))
