"""Divides rows into pieces by hash: strata in proportion, groups undivided."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import islice, pairwise
from typing import Protocol

from peftkit.data.rows import Row


class Strata(Protocol):
    """The methods of a task that `divide` calls."""

    def key(self, row: Row) -> str:
        """Returns a text that is equal for rows with the same input."""

    def strata(self, rows: Sequence[Row]) -> Sequence[str]:
        """Returns each row's stratum, such as its label, to spread evenly over the pieces."""


def divide(
    task: Strata,
    rows: Sequence[Row],
    bounds: Sequence[int],
    split_seed: int,
    keep_one: bool = False,
) -> list[list[Row]]:
    """Divides rows into pieces. Piece `k` ends after about `bounds[k]` rows; the last has the rest.

    Each piece has its share of every stratum, and no group is divided.

    Args:
        keep_one: whether the last piece must have at least one row or group of every stratum.
    """
    units: dict[str, list[tuple[Row, str]]] = defaultdict(list)
    for row, stratum in zip(rows, task.strata(rows), strict=True):
        unit = f"group {row.group}" if row.group else f"row {task.key(row)}"
        units[unit].append((row, stratum))
    strata: dict[str, list[str]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    for unit, members in units.items():
        labels = Counter(stratum for _, stratum in members)
        stratum = max(
            sorted(labels), key=labels.__getitem__
        )  # sorted: independent of the file's order
        strata[stratum].append(unit)
        sizes[stratum] += len(members)
    ends = [dict.fromkeys(sizes, 0), *(_shares(sizes, bound) for bound in bounds)]
    piece_of: dict[str, int] = {}
    for stratum, names in strata.items():
        ranked = sorted(names, key=lambda unit: _rank(unit, split_seed))
        room = [after[stratum] - before[stratum] for before, after in pairwise(ends)]
        for unit in ranked[: len(ranked) - 1] if keep_one else ranked:
            size = len(units[unit])
            piece = next((p for p, left in enumerate(room) if left >= size / 2), len(bounds))
            piece_of[unit] = piece
            if piece < len(bounds):
                room[piece] -= size
    pieces: list[list[Row]] = [[] for _ in range(len(bounds) + 1)]
    for unit, members in units.items():
        pieces[piece_of.get(unit, len(bounds))] += [row for row, _ in members]
    return pieces


def strata_of_splits(task: Strata, splits: Mapping[str, Sequence[Row]]) -> dict[str, Counter[str]]:
    """Returns split -> stratum -> number of rows. The strata are those of all rows together."""
    strata = iter(task.strata([row for rows in splits.values() for row in rows]))
    return {name: Counter(islice(strata, len(rows))) for name, rows in splits.items()}


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Divides `wanted` in proportion to `sizes`, by largest remainder."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: wanted - sum(shares.values())]:
        shares[name] += 1
    return shares


def _rank(unit: str, split_seed: int) -> bytes:
    return hashlib.blake2b(f"{split_seed} {unit}".encode(), digest_size=16).digest()
