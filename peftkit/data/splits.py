"""Divides rows into train, validation and test, without duplicates and without leaks.

Splits that the source has are kept; missing ones are drawn (drawing.py).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from peftkit.data.dividing import counts_of_splits, divide
from peftkit.data.drawing import draw_missing
from peftkit.data.ledger import Ledger, ReadCounts, SplitCounts, by_kind, describe_malformed
from peftkit.data.reading import read_source
from peftkit.data.row_contract import RowContract, Splits
from peftkit.data.rows import (
    Malformed,
    Origin,
    Row,
    Table,
    check_columns,
    group_name,
    text_columns,
)
from peftkit.data.text_files import encoding_hint
from peftkit.errors import DataError, quoted
from peftkit.wording import plural

__all__ = ["Splits", "clean_rows", "load_splits"]

MANY_DUPLICATES = 0.3
"""A note reports the duplicates of a file if they are at least this share of its rows."""
MANY_CONFLICTS = 0.1
"""A note reports conflicting rows of a file if they are at least this share of its rows."""


def load_splits(task: RowContract, split_seed: int) -> tuple[Splits, Ledger]:
    """Reads a task's rows, drops duplicates, contradictions and leaks, and splits the rest.

    Raises:
        DataError: a file, a column or a row is wrong, or there are too few rows.
    """
    source = task.source
    tables = task.adapt_tables(read_source(source))
    for table in tables.values():
        check_columns(table, {**task.columns, **({"group": source.group} if source.group else {})})
    rows: dict[str, list[Row]] = {}
    counts: list[ReadCounts] = []
    for name, table in tables.items():
        rows[name], count = clean_rows(task, table, split_seed)
        counts.append(count)
    _refuse_contradictions(task, counts)
    leaked = _drop_leaks(task, rows)
    task.check_rows([row for part in rows.values() for row in part])
    if "all" in rows:
        rows["train"] = rows.pop("all")
    draw_missing(task, source, rows, split_seed)
    splits = Splits(*(tuple(rows[name]) for name in ("train", "validation", "test")))
    _check_filled(splits, task)
    counted = counts_of_splits(task, splits.named())
    task.check_splits(splits)
    ledger = Ledger(
        read=tuple(counts),
        splits={
            name: SplitCounts(
                rows=len(split),
                leaked=leaked[name],
                strata=dict(sorted(counted[name].items())),
            )
            for name, split in splits.named().items()
        },
        notes=(*_notes(task, tables.values(), counts), *task.remarks(splits)),
        stratum=task.stratum_column,
        counted=task.counted_unit([row for part in rows.values() for row in part]),
    )
    return splits, ledger


def _notes(
    task: RowContract, tables: Iterable[Table], counts: Sequence[ReadCounts]
) -> Iterator[str]:
    """Yields notes for the user on how the rows were read."""
    for table, count in zip(tables, counts, strict=True):
        yield from table.notes
        if hint := _encoding_hint(count.malformed, table.name):
            yield f"skipped rows of `{table.name}` are not UTF-8; {hint}"
        read = {*task.columns_read(table), task.source.group, *table.other_tasks}
        if unread := [column for column in text_columns(table) if column not in read]:
            yield (
                f"nothing reads {plural(len(unread), 'text column')} of `{table.name}`: "
                f"{quoted(unread)}"
            )
        for number, least, what in (
            (count.duplicate, MANY_DUPLICATES, "repeat another one, and are left out"),
            (count.conflicting, MANY_CONFLICTS, "contradict another one, and are left out"),
        ):
            if number and number >= least * count.read:
                share = number / count.read
                yield f"{share:.0%} of the rows of `{table.name}` {what}"


def clean_rows(task: RowContract, table: Table, split_seed: int) -> tuple[list[Row], ReadCounts]:
    """Returns a table's usable rows, and counts of all its rows. Each key occurs once, and there
    are at most `max_rows` rows.

    Raises:
        DataError: rows are malformed, and the source does not skip them.
    """
    source = task.source
    rows: list[Row] = []
    malformed = list(table.malformed)
    origin = Origin(table.name, table.unit, table.word_a_line)
    for number, values in table.rows:
        read = task.read_row(values, table)
        group = group_name(values.get(source.group)) if source.group else ""
        if isinstance(read, str):
            malformed.append(Malformed(number, read))
        elif source.group and not group:
            malformed.append(Malformed(number, f"empty {source.group}"))
        else:
            rows.append(Row(number, read, group or task.group(Row(number, read)), origin))
    kinds, total = by_kind(malformed), len(table.rows) + len(table.malformed)
    if malformed and (source.malformed == "refuse" or not rows):
        problems = describe_malformed(kinds, table.unit)
        raise DataError(
            f"`{table.name}`: {len(malformed)} of {total} rows cannot be used: {problems}",
            _malformed_hint(kinds, bool(rows), table, task),
        )
    kept, duplicate, conflicting = _deduplicated(task, rows)
    drawn = kept
    if source.max_rows and len(kept) > source.max_rows:
        drawn, _ = divide(task, kept, [source.max_rows], split_seed)
    return drawn, ReadCounts(
        name=table.name,
        unit=table.unit,
        read=total,
        kept=len(drawn),
        malformed=kinds,
        duplicate=duplicate,
        conflicting=conflicting,
        not_drawn=len(kept) - len(drawn),
        num_lines=table.num_lines,
        continued=list(table.continued),
    )


def _malformed_hint(
    kinds: Mapping[str, list[int]], usable: bool, table: Table, task: RowContract
) -> str:
    """Returns what to do about malformed rows.

    Args:
        usable: whether the table has rows that can be used.
    """
    encoding = _encoding_hint(kinds, table.name)
    if usable:
        skip = "correct them, or skip them: `--task.data.malformed skip`"
        return f"{encoding}; {skip}" if encoding else skip
    if encoding or not table.rows:
        return encoding or "correct them"
    return f"correct them, or name other columns: {_column_options(task)}"


def _column_options(task: RowContract) -> str:
    return ", ".join(f"`--task.data.{role.replace('_', '-')} NAME`" for role in task.columns)


def _encoding_hint(kinds: Mapping[str, list[int]], name: str) -> str:
    return encoding_hint(Path(name)) if "not UTF-8" in kinds and Path(name).is_file() else ""


def _refuse_contradictions(task: RowContract, counts: Sequence[ReadCounts]) -> None:
    """Raises DataError if most rows of a file contradict each other: columns may be swapped."""
    for count in counts:
        if count.conflicting > count.kept:
            texts, label = list(task.columns.values()), task.stratum_column
            asked = [column for column in texts if column != label]
            raise DataError(
                f"`{count.name}`: {count.conflicting:,} of {count.read:,} rows contradict each "
                f"other: they have the same {quoted(asked)} but another {quoted([label])}",
                f"check that the columns are the right way round: {_column_options(task)}",
            )


def _deduplicated(task: RowContract, rows: Iterable[Row]) -> tuple[list[Row], int, int]:
    """Returns the rows to keep, the number of repeats, and the number of contradicting rows."""
    by_key: dict[str, list[Row]] = defaultdict(list)
    for row in rows:
        by_key[task.key(row)].append(row)
    kept: list[Row] = []
    duplicate = conflicting = 0
    for same in by_key.values():
        if (one := task.merged(same)) is None:
            conflicting += len(same)
        else:
            kept.append(one)
            duplicate += len(same) - 1
    return kept, duplicate, conflicting


def _drop_leaks(task: RowContract, rows: dict[str, list[Row]]) -> dict[str, int]:
    """Removes, in place, rows of training and validation whose key or group is in a later split.
    Returns split -> number of rows removed.
    """
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


def _grouped(splits: Splits) -> bool:
    """Whether several rows are in the same group, and so must stay in one split."""
    groups = [row.group for rows in splits.named().values() for row in rows if row.group]
    return len(set(groups)) < len(groups)


def _check_filled(splits: Splits, task: RowContract) -> None:
    empty = [name for name, rows in splits.named().items() if not rows]
    if not empty:
        return
    sizes = ", ".join(f"{name} {len(rows)}" for name, rows in splits.named().items())
    source = task.source
    strata = Counter(task.strata([*splits.train, *splits.validation, *splits.test]))
    alone = sum(count == 1 for count in strata.values())
    if _grouped(splits):
        hint = "rows of one group, or with the same input, stay in one split; "
    elif 2 * alone > len(strata):
        hint = (
            f"each `{task.stratum_column}` keeps a row in training, and {alone} of {len(strata)} "
            "have only one: give several rows of each; "
        )
    else:
        hint = ""
    raise DataError(
        f"`{source.path}`: no rows in {quoted(empty)} ({sizes})",
        f"{hint}{'raise `max_rows`' if source.max_rows else 'add rows'}, or change "
        f"`validation_fraction` and `{'folds' if source.folds else 'test_fraction'}`",
    )
