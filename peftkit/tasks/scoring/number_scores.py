"""Scores a model that gives each row a number."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.data.rows import Row
from peftkit.metrics.correlation import spearman_parts
from peftkit.metrics.metric import Metric
from peftkit.metrics.regression import r2_parts
from peftkit.tasks.score import Mistake, Parts, Score, ScoreTable
from peftkit.tasks.scoring.row_outputs import text_of

Floats = npt.NDArray[np.float64]
GROUPS = 5
"""Largest number of groups by quantile."""
ROWS_PER_GROUP = 4
"""Smallest average number of rows in a group."""
WORST_MISTAKES = 20


def number_score(
    metric: Callable[[str], Metric],
    outputs: Any,
    expected: Any,
    rows: Sequence[Row],
    mean: float,
    scale: float,
) -> Score:
    """RMSE, MAE, R² and Spearman's correlation, errors by quantile, and the largest errors.

    Args:
        metric: the task's `metric`.
        outputs, expected: (rows, 1), scaled numbers.
        mean, scale: a number is `scale` * its scaled number + `mean`.
    """
    scaled = np.asarray(outputs, np.float64)[:, 0], np.asarray(expected, np.float64)[:, 0]
    predicted, wanted = (scale * numbers + mean for numbers in scaled)
    errors, ones = predicted - wanted, np.ones(len(wanted))
    return Score.of(
        metric,
        {
            "rmse": Parts.of(np.stack([errors**2, ones], axis=1)),
            "mae": Parts.of(np.stack([abs(errors), ones], axis=1)),
            "r2": Parts.of(r2_parts(scaled[1], scaled[0])),
            "spearman": Parts.of(spearman_parts(predicted, wanted)),
            "loss": Parts.of(np.stack([(scaled[0] - scaled[1]) ** 2, ones], axis=1)),
        },
        tables=(_errors_by_group(wanted, errors),),
        mistakes=largest_errors(wanted, predicted, rows),
    )


def quantile_groups(numbers: Any) -> tuple[npt.NDArray[np.int64], list[str]]:
    """Divides numbers at quantiles into at most `GROUPS` groups; equal numbers are in one group.

    Returns:
        The index of each number's group, (numbers,), and the groups' names, such as `2: 1.5 to 3`.
    """
    values = np.asarray(numbers, np.float64)
    count = max(1, min(GROUPS, len(values) // ROWS_PER_GROUP))
    borders = np.unique(np.quantile(values, np.arange(1, count) / count))
    _, groups = np.unique(np.searchsorted(borders, values), return_inverse=True)
    names = []
    for group in range(groups.max() + 1):
        of_group = values[groups == group]
        low, high = number_text(of_group.min()), number_text(of_group.max())
        names.append(f"{group + 1}: {low}" + f" to {high}" * (low != high))
    return groups, names


def largest_errors(expected: Floats, predicted: Floats, rows: Sequence[Row]) -> tuple[Mistake, ...]:
    """The answers farthest from the expected numbers, the largest error first."""
    errors = predicted - expected
    worst = np.argsort(-abs(errors), kind="stable")[:WORST_MISTAKES]
    return tuple(
        Mistake(
            row=rows[index].number,
            text=text_of(rows[index]),
            expected=number_text(expected[index]),
            predicted=number_text(predicted[index]),
            error=float(errors[index]),
        )
        for index in worst
        if errors[index]
    )


def number_text(number: float) -> str:
    """Writes a number with up to six digits."""
    return f"{number:.6g}"


def _errors_by_group(expected: Floats, errors: Floats) -> ScoreTable:
    """Number of rows, mean absolute error and mean error of the rows in each quantile group."""
    groups, names = quantile_groups(expected)
    rows = [
        (name, len(of_group), float(abs(of_group).mean()), float(of_group.mean()))
        for name, of_group in zip(
            names, (errors[groups == group] for group in range(len(names))), strict=True
        )
    ]
    return ScoreTable("Errors by expected number", ("expected", "rows", "mae", "mean error"),
                      tuple(rows))  # fmt: skip
