"""Reads and checks columns of numbers and of ordered levels."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence

from peftkit.data.rows import is_missing
from peftkit.errors import DataError, quoted
from peftkit.tasks.reading.labels import is_empty

MOST_LEVELS = 100
"""Largest number of levels from the lowest to the highest whole number."""
LARGEST = 1e100
"""Numbers from this size on are refused: their squares may be too large to add."""
FAR = 20
"""A note is written if a number is more than this many interquartile ranges from the median."""
Named = Mapping[int, float]
"""Row number -> the row's number."""


def number_of(value: object, column: str, number: Callable[[str], float | None]) -> float | str:
    """Returns a value as a number, or a string that says what is malformed.

    Args:
        column: the column that the value comes from.
        number: returns a text as a number, or None if the text is not a number.
    """
    if is_missing(value) or (isinstance(value, str) and is_empty(value)):
        return f"empty {column}"
    if isinstance(value, str):
        read = number(value)
        if read is None:
            return f"{column} `{value:.40}` is not a number"
        value = read
    if isinstance(value, bool) or not isinstance(value, int | float):
        return f"{column} is {type(value).__name__}, not a number"
    try:
        read = float(value)
    except OverflowError:
        read = math.inf
    if math.isfinite(read) and abs(read) < LARGEST:
        return read
    return f"{column} is {read:g}, not a finite number below {LARGEST:g}"


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
