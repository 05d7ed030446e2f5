"""Divides rows into pieces by hash: strata in proportion, groups undivided."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from itertools import chain, islice, pairwise

from peftkit.data.row_contract import RowContract, Strata
from peftkit.data.rows import Row


def divide(
    task: Strata,
    rows: Sequence[Row],
    bounds: Sequence[int],
    split_seed: int,
    keep_one: bool = False,
) -> list[list[Row]]:
    """Divides rows into pieces. The pieces up to `k` have about `bounds[k]` rows together; the last
    piece has the remaining rows.

    Each piece has its share of every stratum, and no group is divided.

    Args:
        keep_one: whether the last piece must have at least one row or group of every stratum.
    """
    units = units_of(task, rows)
    strata = _by_stratum(task, units)
    sizes = {stratum: sum(len(units[unit]) for unit in names) for stratum, names in strata.items()}
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
        pieces[piece_of.get(unit, len(bounds))] += members
    return pieces


def counts_of_splits(
    task: RowContract, splits: Mapping[str, Sequence[Row]]
) -> dict[str, Counter[str]]:
    """Returns split -> value that the ledger counts -> number of rows that have it."""
    values = iter(task.counted([row for rows in splits.values() for row in rows]))
    return {name: Counter(chain(*islice(values, len(rows)))) for name, rows in splits.items()}


def divide_evenly(
    task: Strata, rows: Sequence[Row], count: int, split_seed: int
) -> list[list[Row]]:
    """Divides rows into `count` pieces of about equal size. Each piece has its share of every
    stratum, and no group is divided; none is empty if there are at least `count` rows or groups.

    Large groups are placed first. Each unit goes to the piece with the fewest rows of its stratum;
    among several, to the smallest.
    """
    units = units_of(task, rows)
    piece_of: dict[str, int] = {}
    sizes = [0] * count
    for _, names in sorted(_by_stratum(task, units).items()):
        of_stratum = [0] * count
        for unit in sorted(names, key=lambda unit: (-len(units[unit]), _rank(unit, split_seed))):
            piece = min(range(count), key=lambda p: (of_stratum[p], sizes[p]))
            piece_of[unit] = piece
            of_stratum[piece] += len(units[unit])
            sizes[piece] += len(units[unit])
    pieces: list[list[Row]] = [[] for _ in range(count)]
    for unit, members in units.items():
        pieces[piece_of[unit]] += members
    return pieces


def units_of(task: Strata, rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Returns what stays in one piece, by name: the rows of a group, or a row without a group."""
    units: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        units[f"group {row.group}" if row.group else f"row {task.key(row)}"].append(row)
    return units


def _by_stratum(task: Strata, units: Mapping[str, Sequence[Row]]) -> dict[str, list[str]]:
    """Returns stratum -> names of its units. A group belongs to the stratum of most of its rows."""
    strata: dict[str, list[str]] = defaultdict(list)
    values = iter(task.strata([row for members in units.values() for row in members]))
    for unit, members in units.items():
        labels = Counter(islice(values, len(members)))
        stratum = max(
            sorted(labels), key=labels.__getitem__
        )  # sorted: independent of the file's order
        strata[stratum].append(unit)
    return strata


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """Divides the number `wanted` into shares in proportion to `sizes`, by largest remainder."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: wanted - sum(shares.values())]:
        shares[name] += 1
    return shares


def _rank(unit: str, split_seed: int) -> bytes:
    return hashlib.blake2b(f"{split_seed} {unit}".encode(), digest_size=16).digest()
