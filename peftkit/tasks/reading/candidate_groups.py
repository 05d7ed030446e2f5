"""Groups of candidates for one query, and how many of them a ranking can learn from."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from peftkit.data.rows import Row
from peftkit.wording import plural


@dataclass(frozen=True)
class Groups:
    """The groups of a split's rows, divided by whether their candidates can be ranked."""

    ranked: tuple[str, ...]
    """Groups that have candidates with different scores."""
    single: tuple[str, ...]
    """Groups with one candidate."""
    equal: tuple[str, ...]
    """Groups of several candidates with equal scores."""
    sizes: Mapping[str, int]
    """Group -> number of candidates."""

    @classmethod
    def of(cls, rows: Sequence[Row], name_of: Callable[[Row], str]) -> Groups:
        """Divides rows into groups.

        Args:
            name_of: returns the name of a row's group.
        """
        scores: dict[str, list[float]] = {}
        for row in rows:
            scores.setdefault(name_of(row), []).append(row.values["score"])
        sizes = {name: len(found) for name, found in scores.items()}
        equal = [name for name, found in scores.items() if len(set(found)) == 1]
        return cls(
            ranked=tuple(name for name, found in scores.items() if len(set(found)) > 1),
            single=tuple(name for name in equal if sizes[name] == 1),
            equal=tuple(name for name in equal if sizes[name] > 1),
            sizes=sizes,
        )

    @property
    def others(self) -> str:
        """Counts the groups that cannot be ranked, for a message."""
        kinds = ((self.single, "one candidate"), (self.equal, "candidates with equal scores"))
        return " and ".join(
            f"{plural(len(names), 'group')} of {what}" for names, what in kinds if names
        )

    def notes(self, split: str, left_out: bool) -> Iterator[str]:
        """Yields a note if some groups cannot be ranked.

        Args:
            left_out: whether the rows of such groups are left out.
        """
        if not self.others:
            return
        rows = sum(self.sizes[name] for name in (*self.single, *self.equal))
        what = "left out" if left_out else "not in the ranking metrics"
        yield f"{split}: {self.others} ({plural(rows, 'row')}), {what}"
