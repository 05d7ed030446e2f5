"""Draws the splits that a source does not have: one test and validation split, or a fold.

In each stratum (label), rows are ordered by a hash of their key and `split_seed`. The first rows
become the test split, the next ones validation, and at least one row stays in training. If a row is
added later, at most one other row of each stratum crosses each of the two boundaries.

With `folds`, the rows are divided into so many parts. One part is the test split, and validation is
drawn from the others.
"""

from __future__ import annotations

from peftkit.data.dividing import divide, divide_evenly, units_of
from peftkit.data.row_contract import Strata
from peftkit.data.rows import Row
from peftkit.data.source import Source
from peftkit.errors import DataError, RecipeError, quoted
from peftkit.wording import plural


def draw_missing(task: Strata, source: Source, rows: dict[str, list[Row]], split_seed: int) -> None:
    """Moves rows, in place, from training to the splits that the source does not have.

    Raises:
        DataError: there are too few rows, or the source has splits and is to be divided into folds.
        RecipeError: the source has folds, but does not say which one is the test split.
    """
    if source.folds is not None:
        _draw_fold(task, source, rows, split_seed)
        return
    fractions = {"test": source.test_fraction, "validation": source.validation_fraction}
    missing = [name for name in fractions if name not in rows]
    total = len(rows["train"])
    if not missing:
        return
    if total < 3:
        raise DataError(
            f"{plural(total, 'usable row')} in `{source.path}`; "
            "train, validation and test need at least one each",
            "raise `max_rows`" if source.max_rows else "add rows; begin with a few hundred",
        )
    shares = [fractions[name] for name in missing]
    bounds = [max(k, round(total * sum(shares[:k]))) for k in range(1, len(shares) + 1)]
    *drawn, rest = divide(task, rows["train"], bounds, split_seed, keep_one=True)
    rows |= {**dict(zip(missing, drawn, strict=True)), "train": rest}


def _draw_fold(task: Strata, source: Source, rows: dict[str, list[Row]], split_seed: int) -> None:
    """Moves rows, in place, from training to test, the fold `source.fold`, and to validation."""
    assert source.folds is not None
    if own := [name for name in ("validation", "test") if name in rows]:
        raise DataError(
            f"`{source.path}` has its own {quoted(own)} rows, and `folds` divides rows without "
            "splits",
            "leave `folds` out to use these splits, or give one file with all rows",
        )
    if source.fold is None:
        raise RecipeError(
            f"`folds` is {source.folds}: the recipe makes {source.folds} runs, and this is one",
            "make them all with `peftkit.cross_validate(recipe)` or `peftkit run`, or choose one, "
            "such as `--task.data.fold 1`",
        )
    units = units_of(task, rows["train"])
    if len(units) < max(3, source.folds):
        what = "group" if any(row.group for row in rows["train"]) else "usable row"
        raise DataError(
            f"{plural(len(units), what)} in `{source.path}`, fewer than "
            + (f"{source.folds} folds" if source.folds > 2 else "train, validation and test need"),
            f"add {what.rsplit(maxsplit=1)[-1]}s, or lower `folds`"
            if source.folds > 2
            else "add rows",
        )
    test = divide_evenly(task, rows["train"], source.folds, split_seed)[source.fold - 1]
    tested = {row.number for row in test}
    others = [row for row in rows["train"] if row.number not in tested]
    wanted = max(1, round(len(rows["train"]) * source.validation_fraction))
    seed = split_seed + source.fold  # so that other rows validate in each fold
    validation, train = divide(task, others, [wanted], seed, keep_one=True)
    rows |= {"test": test, "validation": validation, "train": train}
