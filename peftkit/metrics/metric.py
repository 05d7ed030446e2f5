"""A metric as a value: its name, and whether higher is better."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


def mean(sums: Floats) -> Floats:
    """(..., 2) sums of values and of their weights -> (...,) means."""
    means: Floats = sums[..., 0] / sums[..., 1]
    return means


@dataclass(frozen=True)
class Metric:
    """A score by which models are compared."""

    name: str
    higher_is_better: bool = True
    statistic: Callable[[Any], Any] = field(default=mean, compare=False)
    """The score from sums over rows of what each adds to it: (..., k) -> (...,)."""

    @property
    def title(self) -> str:
        """The name as it is written in text."""
        return self.name.replace("_", " ")

    @property
    def direction(self) -> str:
        """`higher` or `lower`: the values that are better."""
        return "higher" if self.higher_is_better else "lower"

    def goodness(self, value: float) -> float:
        """The value, negated if lower is better: more of it is always better."""
        return value if self.higher_is_better else -value

    def better(self, a: float, b: float) -> bool:
        """Whether the first value is better than the second."""
        return self.goodness(a) > self.goodness(b)

    def best(self, values: Iterable[float]) -> float:
        """The best value; the first of equal ones."""
        return max(values, key=self.goodness)


@dataclass(frozen=True, kw_only=True)
class TextMetric(Metric):
    """A score of written texts beside the expected ones."""

    parts: Callable[[Sequence[str], Sequence[str]], Floats] = field(compare=False)
    """(expected, written) texts -> (texts, k), what each adds to the score."""
    least: int = 1
    """Fewest texts with which the score means something; it is not computed for fewer."""
