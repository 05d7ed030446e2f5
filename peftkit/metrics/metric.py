"""A metric as a value: its name, its direction, and how it is computed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]


def mean(sums: Floats) -> Floats:
    """Weighted means: sums of weighted values and of weights, (..., 2) -> (...,)."""
    means: Floats = sums[..., 0] / sums[..., 1]
    return means


@dataclass(frozen=True)
class Metric:
    """A score by which models are compared."""

    name: str
    higher_is_better: bool = True
    statistic: Callable[[Any], Any] = field(default=mean, compare=False)
    """Computes the score from sums over rows: (..., k) -> (...,)."""
    bounded: bool = field(default=False, compare=False)
    """Whether the score is a share from 0 to 1, such as F1. A comparison then clips its intervals,
    and does not conclude that two methods are equal from agreement on all rows."""

    @property
    def title(self) -> str:
        """The name with spaces for underscores, for messages."""
        return self.name.replace("_", " ")

    @property
    def direction(self) -> str:
        """`higher` or `lower`, whichever is better."""
        return "higher" if self.higher_is_better else "lower"

    def goodness(self, value: float) -> float:
        """The value, negated if lower is better, so that a greater goodness is always better."""
        return value if self.higher_is_better else -value

    def better(self, a: float, b: float) -> bool:
        """Whether the first value is better than the second."""
        return self.goodness(a) > self.goodness(b)

    def best(self, values: Iterable[float]) -> float:
        """The best of the values."""
        return max(values, key=self.goodness)


@dataclass(frozen=True)
class Written:
    """A text that a model wrote, and what was expected."""

    text: str
    references: tuple[str, ...]
    """The right texts, one or more."""
    source: str = ""
    """The text that the model was given."""


@dataclass(frozen=True, kw_only=True)
class TextMetric(Metric):
    """A score of written texts."""

    parts: Callable[[Sequence[Written]], Floats] = field(compare=False)
    """Function written texts -> what each text adds to the sums, (texts, k)."""
    least: int = 1
    """Fewest texts to compute the score from; with fewer, it would mean little."""
    signature: str = field(default="", compare=False)
    """How the score is computed, for reports: the package, its version and its settings."""
