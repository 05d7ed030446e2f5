"""Rows into train, validation and test, without duplicates and without leaks.

A split that the source gives is kept. One that it does not give is drawn: inside each stratum
(label), rows are ranked by a hash of their key and `split_seed`; the first ones become the test
split, the next ones validation, and every stratum keeps a row in training. A row added later
moves at most one other row of each stratum over each of the two boundaries.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Protocol

from peftkit.data.ledger import Ledger, ReadCounts, SplitCounts, by_kind, describe_malformed
from peftkit.data.reading import read_source
from peftkit.data.rows import Malformed, Row, Table, check_columns
from peftkit.data.source import Source
from peftkit.errors import DataError, quoted


class RowContract(Protocol):
    """What splitting needs to know of a task."""

    @property
    def source(self) -> Source:
        """Where the rows come from."""

    @property
    def columns(self) -> Mapping[str, str]:
        """The task's name of a column -> the file's."""

    def read_row(self, values: Mapping[str, Any], table: Table) -> dict[str, Any] | str:
        """The row's values by the task's names; or, as a string, what is malformed in it."""

    def key(self, row: Row) -> str:
        """Equal for rows that ask the same thing."""

    def stratum(self, row: Row) -> str:
        """What must be spread evenly over the splits; rows of one key must agree on it."""

    def group(self, row: Row) -> str:
        """Equal for rows that must stay in one split; empty for none."""

    def check_splits(self, splits: Splits) -> None:
        """Raises DataError if the task cannot be learned or scored on these splits."""


@dataclass(frozen=True)
class Splits:
    """The rows of each split."""

    train: tuple[Row, ...]
    validation: tuple[Row, ...]
    test: tuple[Row, ...]

    def named(self) -> dict[str, tuple[Row, ...]]:
        """By name, in order."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def load_splits(task: RowContract, split_seed: int) -> tuple[Splits, Ledger]:
    """Reads a task's rows, leaves out what must not be there, and splits the rest.

    Raises:
        DataError: a file, a column or a row is wrong, or the rows do not suffice.
    """
    source = task.source
    tables = read_source(source)
    for table in tables.values():
        check_columns(table, {**task.columns, **({"group": source.group} if source.group else {})})
    rows: dict[str, list[Row]] = {}
    counts: list[ReadCounts] = []
    for name, table in tables.items():
        rows[name], count = clean_rows(task, table, split_seed)
        counts.append(count)
    leaked = _drop_leaks(task, rows)
    if "all" in rows:
        rows["train"] = rows.pop("all")
    _draw_missing(task, rows, split_seed)
    splits = Splits(*(tuple(rows[name]) for name in ("train", "validation", "test")))
    _check_filled(splits, source)
    task.check_splits(splits)
    ledger = Ledger(
        read=tuple(counts),
        splits={
            name: SplitCounts(
                rows=len(split),
                leaked=leaked[name],
                strata=dict(sorted(Counter(map(task.stratum, split)).items())),
            )
            for name, split in splits.named().items()
        },
    )
    return splits, ledger


def clean_rows(task: RowContract, table: Table, split_seed: int) -> tuple[list[Row], ReadCounts]:
    """The usable rows of a table, each key once, at most `max_rows`; and the count of the others.

    Raises:
        DataError: rows are malformed, and the source does not skip them.
    """
    source = task.source
    rows: list[Row] = []
    malformed = list(table.malformed)
    for number, values in table.rows:
        read = task.read_row(values, table)
        value = values.get(source.group) if source.group else None
        group = "" if value is None else str(value)
        if isinstance(read, str):
            malformed.append(Malformed(number, read))
        elif source.group and not group:
            malformed.append(Malformed(number, f"empty {source.group}"))
        else:
            rows.append(Row(number, read, group or task.group(Row(number, read))))
    kinds = by_kind(malformed)
    total = len(table.rows) + len(table.malformed)
    if malformed and (source.malformed == "refuse" or not rows):
        told = describe_malformed(kinds, table.unit)
        raise DataError(
            f"`{table.name}`: {len(malformed)} of {total} rows cannot be used: {told}",
            _malformed_hint(kinds, bool(rows)),
        )
    kept, duplicate, conflicting = _deduplicated(task, rows)
    drawn = kept
    if source.max_rows and len(kept) > source.max_rows:
        drawn, _ = _divide(task, kept, [source.max_rows], split_seed)
    return drawn, ReadCounts(
        name=table.name,
        unit=table.unit,
        read=total,
        kept=len(drawn),
        malformed=kinds,
        duplicate=duplicate,
        conflicting=conflicting,
        not_drawn=len(kept) - len(drawn),
    )


def _malformed_hint(kinds: Mapping[str, list[int]], usable: bool) -> str:
    hint = "mend them, or go on without them: `--task.data.malformed skip`" if usable else ""
    if "not UTF-8" in kinds:
        hint = "convert the file, for example `iconv -f GBK -t UTF-8`" + (f"; {hint}" * usable)
    return hint


def _deduplicated(task: RowContract, rows: Iterable[Row]) -> tuple[list[Row], int, int]:
    """Rows with each key once; number of repeats; number of rows that contradict each other."""
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[task.key(row)].append(row)
    kept: list[Row] = []
    duplicate = conflicting = 0
    for same in by_key.values():
        if len({task.stratum(row) for row in same}) > 1:
            conflicting += len(same)
        else:
            kept.append(same[0])
            duplicate += len(same) - 1
    return kept, duplicate, conflicting


def _drop_leaks(task: RowContract, rows: dict[str, list[Row]]) -> dict[str, int]:
    """Takes rows whose key or group stands in a later split out of the earlier one, in place."""
    leaked = {"train": 0, "validation": 0, "test": 0}
    keys: set[str] = set()
    groups: set[str] = set()
    for name in ("test", "validation", "train"):
        if name not in rows:
            continue
        clean = [r for r in rows[name] if task.key(r) not in keys and r.group not in groups]
        leaked[name] = len(rows[name]) - len(clean)
        rows[name] = clean
        keys |= {task.key(row) for row in clean}
        groups |= {row.group for row in clean if row.group}
    return leaked


def _draw_missing(task: RowContract, rows: dict[str, list[Row]], split_seed: int) -> None:
    """Draws the splits that the source does not give from the training rows, in place."""
    source = task.source
    fractions = {"test": source.test_fraction, "validation": source.validation_fraction}
    missing = [name for name in fractions if name not in rows]
    total = len(rows["train"])
    if not missing:
        return
    if total < 3:
        raise DataError(
            f"{total} usable row{'s' if total != 1 else ''} in `{source.path}`; "
            "train, validation and test need at least one each",
            "raise `max_rows`" if source.max_rows else "add rows; a few hundred are a beginning",
        )
    shares = [fractions[name] for name in missing]
    bounds = [max(k, round(total * sum(shares[:k]))) for k in range(1, len(shares) + 1)]
    *drawn, rest = _divide(task, rows["train"], bounds, split_seed, keep_one=True)
    rows |= {**dict(zip(missing, drawn, strict=True)), "train": rest}


def _divide(
    task: RowContract,
    rows: Sequence[Row],
    bounds: Sequence[int],
    split_seed: int,
    keep_one: bool = False,
) -> list[list[Row]]:
    """Rows in pieces that end at about these counts, and the rest as the last piece.

    Each piece has its share of every stratum; groups stay whole.

    Args:
        keep_one: the last piece keeps at least one unit of every stratum.
    """
    units: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        units[f"group {row.group}" if row.group else f"row {task.key(row)}"].append(row)
    strata: dict[str, list[str]] = defaultdict(list)
    sizes: Counter[str] = Counter()
    for unit, members in units.items():
        labels = Counter(map(task.stratum, members))
        stratum = max(sorted(labels), key=labels.__getitem__)  # sorted: whatever the file's order
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
        pieces[piece_of.get(unit, len(bounds))] += members
    return pieces


def _shares(sizes: Mapping[str, int], wanted: int) -> dict[str, int]:
    """`wanted` divided in proportion to `sizes`, by largest remainder."""
    total = sum(sizes.values())
    exact = {name: wanted * size / total for name, size in sizes.items()}
    shares = {name: int(value) for name, value in exact.items()}
    by_remainder = sorted(exact, key=lambda name: (shares[name] - exact[name], name))
    for name in by_remainder[: wanted - sum(shares.values())]:
        shares[name] += 1
    return shares


def _rank(unit: str, split_seed: int) -> bytes:
    return hashlib.blake2b(f"{split_seed} {unit}".encode(), digest_size=16).digest()


def _grouped(splits: Splits) -> bool:
    """Whether some rows must stay in one split: of one group, or because they ask the same."""
    groups = [row.group for rows in splits.named().values() for row in rows if row.group]
    return len(set(groups)) < len(groups)


def _check_filled(splits: Splits, source: Source) -> None:
    empty = [name for name, rows in splits.named().items() if not rows]
    if empty:
        sizes = ", ".join(f"{name} {len(rows)}" for name, rows in splits.named().items())
        grouped = ""
        if _grouped(splits):
            grouped = "rows of one group, or that ask the same, stay in one split: give others; "
        raise DataError(
            f"`{source.path}`: no rows in {quoted(empty)} ({sizes})",
            f"{grouped}{'raise `max_rows`' if source.max_rows else 'add rows'}, or change "
            "`validation_fraction` and `test_fraction`",
        )
