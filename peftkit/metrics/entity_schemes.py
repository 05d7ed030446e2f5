"""Entities compared by boundaries and by type, and the kinds of errors (Segura-Bedmar et al. 2013,
SemEval-2013 task 9).

strict: boundaries and type     exact: boundaries     type: overlap and type     partial: overlap

An entity that overlaps an expected one, but does not agree with it, is incorrect (in the scheme
`partial`: half right). One that overlaps none is spurious; an expected one that none overlaps is
missed. The package nervaluate counts in the same way.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from peftkit.metrics.entities import Entity

Pair = tuple[Entity | None, Entity | None]
"""An expected entity and the predicted one for it; None if either is missing."""


def _same_bounds(expected: Entity, predicted: Entity) -> bool:
    return expected[:2] == predicted[:2]


def _same_type(expected: Entity, predicted: Entity) -> bool:
    return expected[2] == predicted[2]


SCHEMES: dict[str, Callable[[Entity, Entity], bool]] = {
    "strict": lambda expected, predicted: expected == predicted,
    "exact": _same_bounds,
    "type": _same_type,
    "partial": _same_bounds,
}
"""Scheme -> whether a predicted entity agrees with an expected one that it overlaps."""


@dataclass(frozen=True)
class SchemeCounts:
    """How many entities are right and wrong in a scheme."""

    correct: int = 0
    incorrect: int = 0
    """Number that overlap an expected entity and do not agree with it; half right in `partial`."""
    missed: int = 0
    spurious: int = 0
    half: bool = False
    """Whether an entity that only overlaps counts as half right."""

    @property
    def predicted(self) -> int:
        """Number of predicted entities."""
        return self.correct + self.incorrect + self.spurious

    @property
    def expected(self) -> int:
        """Number of expected entities."""
        return self.correct + self.incorrect + self.missed

    @property
    def scores(self) -> tuple[float, float, float]:
        """Precision, recall and F score; 0 where there are no entities."""
        right = self.correct + self.half * self.incorrect / 2
        both = self.predicted + self.expected
        return (
            right / self.predicted if self.predicted else 0.0,
            right / self.expected if self.expected else 0.0,
            2 * right / both if both else 0.0,
        )


def scheme_counts(
    scheme: str, rows: Iterable[tuple[Collection[Entity], Collection[Entity]]]
) -> SchemeCounts:
    """Counts the entities of all rows in one of `SCHEMES`.

    Args:
        rows: the expected and the predicted entities of each row.
    """
    agree, found = SCHEMES[scheme], Counter[str]()
    for expected, predicted in rows:
        for one, other in _pairs(expected, predicted, agree):
            if one is None or other is None:
                found["spurious" if one is None else "missed"] += 1
            else:
                found["correct" if agree(one, other) else "incorrect"] += 1
    return SchemeCounts(**found, half=scheme == "partial")


def matched(expected: Collection[Entity], predicted: Collection[Entity]) -> list[Pair]:
    """Pairs each predicted entity of a row with the expected one that it is closest to: one with
    its boundaries, else one of its type that overlaps it, else another one that overlaps it.
    """
    left, free = sorted(expected), sorted(predicted)
    pairs: list[Pair] = []
    for close in (_same_bounds, _same_type, _overlap):
        for guess in list(free):
            near = [one for one in left if _overlap(one, guess) and close(one, guess)]
            if near:
                one = min(near, key=lambda one: _distance(one, guess))
                pairs.append((one, guess))
                left.remove(one)
                free.remove(guess)
    return [*pairs, *((one, None) for one in left), *((None, guess) for guess in free)]


def _pairs(
    expected: Collection[Entity],
    predicted: Collection[Entity],
    agree: Callable[[Entity, Entity], bool],
) -> list[Pair]:
    """Pairs entities from left to right: each predicted one with the closest expected one that it
    overlaps and agrees with, else with the first one that it overlaps.
    """
    left = sorted(expected)
    pairs: list[Pair] = []
    for guess in sorted(predicted):
        near = [one for one in left if _overlap(one, guess)]
        right = [one for one in near if agree(one, guess)]
        if not near:
            pairs.append((None, guess))
            continue
        one = min(right, key=lambda one: _distance(one, guess)) if right else near[0]
        pairs.append((one, guess))
        left.remove(one)
    return [*pairs, *((one, None) for one in left)]


def _overlap(one: Entity, other: Entity) -> bool:
    return one[0] < other[1] and other[0] < one[1]


def _distance(one: Entity, other: Entity) -> int:
    return abs(one[0] - other[0]) + abs(one[1] - other[1])
