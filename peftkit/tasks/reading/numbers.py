"""Reads numbers, and checks columns of numbers and of ordered levels."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence

from peftkit.data.rows import Table, is_missing
from peftkit.data.source import as_number, other_mark
from peftkit.errors import DataError, RecipeError, quoted
from peftkit.tasks.reading.labels import FEW_ROWS, is_empty
from peftkit.wording import plural

MOST_LEVELS = 100
"""Largest number of levels from the lowest to the highest whole number."""
LARGEST = 1e100
"""Largest number that is read: squares of larger ones may be too large to add."""
FAR = 20
"""A note is written if a number is more than this many interquartile ranges from the median."""
SHOWN = 5
"""Maximum number of levels that a note lists."""
Named = Mapping[int, float]
"""Row number -> the row's number."""


def number_of(
    value: object, column: str, number: Callable[[str], float | None], largest: float = LARGEST
) -> float | str:
    """Returns a value as a number, or a string that says what is malformed.

    Args:
        column: the column that the value comes from.
        number: returns a text as a number, or None if the text is not a number.
        largest: numbers above it, or below its negative, are malformed.
    """
    if is_missing(value) or (isinstance(value, str) and is_empty(value)):
        return f"empty {column}"
    read: object = value
    if isinstance(value, str):
        read = number(value)
        if read is None and not _overflows(value):
            return f"{column} `{value:.40}` is not a number"
    elif isinstance(value, bool) or not isinstance(value, int | float):
        return f"{column} is {type(value).__name__}, not a number"
    elif isinstance(value, float) and math.isinf(value):
        return f"{column} is {value}, not a finite number"
    if isinstance(read, int | float) and abs(read) <= largest:
        return float(read)
    return f"{column} is `{str(value).strip():.40}`, and numbers may be at most {largest:g} in size"


def _overflows(text: str) -> bool:
    """Whether a text is a number that is too large for a float, such as `1e400`."""
    try:
        return math.isinf(float(text)) and any(map(str.isdigit, text))
    except ValueError:
        return False


def check_decimal_mark(tables: Mapping[str, Table], column: str, decimal: str) -> None:
    """Raises DataError if numbers written as texts seem to have another decimal mark.

    `1,234` may be 1.234 or, with a separator of thousands, 1234. The decimal mark is clear if some
    text is a number only with it, as `2.5` and `1,234.5` are with the decimal mark `.`.

    Args:
        decimal: the decimal mark that the texts are read with, `.` or `,`.
    """
    other, found = other_mark(decimal), []
    for table in tables.values():
        for row, values in table.rows:
            if not isinstance(text := values.get(column), str):
                continue
            own, theirs = as_number(text, decimal), as_number(text, other)
            if own is not None and theirs is None:
                return
            # the decimal mark `,` is never a default: the user says that `1.234` is 1234
            if theirs is not None and own != theirs and (own is None or decimal == "."):
                found.append((table, row, text.strip(), theirs, own))
    if not found:
        return
    table, row, text, theirs, own = found[0]
    may_be = "" if own is None else f", which may be {theirs:g}, or {own:g} with thousands set off"
    raise DataError(
        f"`{table.name}`: column `{column}` has `{text:.40}` in {table.unit} {row}{may_be}; "
        f"`task.data.decimal` is `{decimal}` ({plural(len(found), f'such {table.unit}')})",
        f"for a decimal {'comma' if other == ',' else 'point'}, give `--task.data.decimal {other}`"
        + ("" if own is None else "; for thousands, remove the commas"),
    )


def level_text(number: float) -> str:
    """Writes a level as short as possible: `3`, `2.5`."""
    return repr(int(number)) if number == int(number) else repr(number)


def whole_levels(numbers: Sequence[float]) -> tuple[float, ...]:
    """Returns the whole numbers from the lowest to the highest of `numbers`."""
    return tuple(map(float, range(int(min(numbers)), int(max(numbers)) + 1)))


def check_levels(numbers: Named, levels: Sequence[float], path: str, column: str) -> None:
    """Raises DataError if numbers are not levels.

    Args:
        levels: all levels; empty if they are whole numbers.
        path: path of the data.
        column: the column that the numbers come from.
    """
    where = f"`{path}`: column `{column}`"
    wrong = [
        (row, number)
        for row, number in numbers.items()
        if (number not in levels if levels else number != int(number))
    ]
    if wrong:
        row, number = wrong[0]
        wanted = f"levels are {quoted(map(level_text, levels))}" if levels else "levels are whole"
        raise DataError(
            f"{where} has {level_text(number)} in row {row}, and with `task.ordinal` {wanted} "
            f"({len(wrong):,} such rows)",
            "name all levels in their order, `--task.levels 1 1.5 2`, or leave `task.ordinal` out",
        )
    low, high = min(numbers.values()), max(numbers.values())
    if not levels and high - low >= MOST_LEVELS:
        raise DataError(
            f"{where} has whole numbers from {low:,.0f} to {high:,.0f}; with `task.ordinal` there "
            f"may be {MOST_LEVELS} levels",
            "leave `task.ordinal` out: the numbers are learned as they are",
        )


def level_remarks(numbers: Sequence[float], levels: Sequence[float]) -> Iterator[str]:
    """Yields a note if levels have no training row, or few.

    Args:
        numbers: the levels of the training rows.
        levels: all levels.
    """
    counts = Counter(numbers)
    few = [level for level in levels if counts[level] < FEW_ROWS]
    if not few:
        return
    shown = ", ".join(f"`{level_text(level)}` {counts[level]}" for level in few[:SHOWN])
    more = f", and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
    present = " ".join(level_text(level) for level in levels if counts[level])
    hint = f"; if there are no others, give `--task.levels {present}`"
    yield (
        f"some levels have fewer than {FEW_ROWS} training rows, too few to learn them: "
        f"{shown}{more}{hint if any(not counts[level] for level in few) else ''}"
    )


def check_scaled(
    splits: Mapping[str, Sequence[float]], mean: float | None, scale: float | None
) -> None:
    """Raises RecipeError if a given scale leaves float32 no finite and different targets.

    Args:
        splits: split -> its numbers.
        mean, scale: the task's `target_mean` and `target_scale`; None if not given.
    """
    import numpy as np

    own_mean, own_scale = float(np.mean(splits["train"])), float(np.std(splits["train"]))
    mean_used, scale_used = (
        own_mean if mean is None else mean,
        own_scale if scale is None else scale,
    )
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):
        scaled = {
            name: ((np.array(numbers) - mean_used) / scale_used).astype(np.float32)
            for name, numbers in splits.items()
        }
        finite = all(np.isfinite(targets**2).all() for targets in scaled.values())
        if finite and scaled["train"].std() > 0:
            return
    given = {"target_mean": mean, "target_scale": scale}
    raise RecipeError(
        " and ".join(
            f"`task.{name}` is {value:g}" for name, value in given.items() if value is not None
        )
        + f", which makes {'all training targets equal' if finite else 'targets too large'} in "
        "float32",
        f"leave {'it' if None in given.values() else 'both'} out: the training rows' mean is "
        f"{own_mean:g} and their standard deviation {own_scale:g}",
    )


def number_remarks(numbers: Sequence[float], column: str) -> Iterator[str]:
    """Yields a note if some numbers are very far from the others, as codes for missing values are.

    Args:
        column: the column that the numbers come from.
    """
    ordered = sorted(numbers)
    low, middle, high = (ordered[int(share * (len(ordered) - 1))] for share in (0.25, 0.5, 0.75))
    far = [value for value in ordered if abs(value - middle) > FAR * (high - low)]
    if high > low and far:
        farthest = max(far, key=lambda value: abs(value - middle))
        yield (
            f"`{column}` is {farthest:g} in a training row, and from {low:g} to {high:g} in the "
            f"middle half of them; does a number such as {farthest:g} mean that the value is "
            "missing?"
        )


def scale_remarks(
    numbers: Sequence[float], mean: float | None, scale: float | None
) -> Iterator[str]:
    """Yields a note if a given scale does not fit the training rows, as after a change of the data.

    Args:
        mean, scale: the task's `target_mean` and `target_scale`; None if not given.
    """
    own_mean, own_scale = statistics.fmean(numbers), statistics.pstdev(numbers)
    far = mean is not None and abs(mean - own_mean) > 3 * own_scale
    if far or (scale is not None and not 0.2 < scale / own_scale < 5):
        yield (
            f"`task.target_mean` {mean} and `task.target_scale` {scale} do not fit the training "
            f"rows, whose mean is {own_mean:g} and standard deviation {own_scale:g}: training may "
            "be slow; leave them out"
        )
