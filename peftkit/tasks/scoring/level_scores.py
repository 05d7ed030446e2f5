"""Scores ordered levels, learned as the answers to K - 1 questions "is it above level k?".

    p(y > k) = sigmoid(output k)        the predicted level is the number of outputs above 0

(Li & Lin 2006, "Ordinal regression by extended binary classification"; as outputs of one network,
Niu et al. 2016, "Ordinal regression with multiple output CNN for age estimation".)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.data.ragged import Array
from peftkit.data.rows import Row
from peftkit.metrics.kappa import kappa_parts
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Matrix, Parts, Score, ScoreTable
from peftkit.tasks.scoring.number_scores import largest_errors, number_text


def above(places: Any, num_levels: int) -> Array:
    """Returns (rows, levels - 1), 1.0 where a row's level is above the level of the column.

    Args:
        places: (rows,), the place of each row's level, from 0.
    """
    exceeded: Array = np.asarray(places)[:, None] > np.arange(num_levels - 1)
    return exceeded.astype(np.float32)


def places_of(outputs: Any) -> npt.NDArray[np.int64]:
    """Returns (rows,), the place of each row's predicted level: its number of outputs above 0.

    Args:
        outputs: (rows, levels - 1).
    """
    places: npt.NDArray[np.int64] = (np.asarray(outputs) > 0).sum(axis=1)
    return places


def level_score(
    metric: Callable[[str], Metric],
    outputs: Any,
    targets: Any,
    rows: Sequence[Row],
    levels: tuple[float, ...],
) -> Score:
    """MAE, quadratic kappa, accuracy, the confusion of levels, and the largest errors.

    Args:
        metric: the task's `metric`.
        outputs: (rows, levels - 1), logits.
        targets: (rows, levels - 1), from `above`.
        levels: the levels as numbers, in their order.
    """
    wanted, found = places_of(targets), places_of(outputs)
    numbers, ones = np.array(levels, np.float64), np.ones(len(wanted))
    expected, predicted = numbers[wanted], numbers[found]
    counts = np.zeros((len(levels), len(levels)), np.int64)
    np.add.at(counts, (wanted, found), 1)
    losses = np.logaddexp(0, np.where(np.asarray(targets) > 0, -1, 1) * outputs).sum(axis=1)
    names = tuple(map(number_text, levels))
    return Score.of(
        metric,
        {
            "mae": Parts.of(np.stack([abs(predicted - expected), ones], axis=1)),
            "quadratic_kappa": Parts.of(kappa_parts(wanted, found)),
            "accuracy": Parts.of(np.stack([wanted == found, ones], axis=1)),
            "loss": Parts.of(np.stack([losses, ones], axis=1)),
        },
        tables=(_errors_by_level(names, wanted, predicted - expected),),
        matrices=(Matrix("Confusion", names, tuple(map(tuple, counts.tolist()))),),
        mistakes=largest_errors(expected, predicted, rows),
    )


def _errors_by_level(names: Sequence[str], wanted: Array, errors: Array) -> ScoreTable:
    """Number of rows, mean absolute error and mean error of the rows with each level."""
    rows = [
        (name, len(of_level), float(abs(of_level).mean()), float(of_level.mean()))
        for name, of_level in zip(
            names, (errors[wanted == place] for place in range(len(names))), strict=True
        )
        if len(of_level)
    ]
    return ScoreTable(
        "Errors by level", ("expected", "rows", "mae", "mean error"), tuple(rows)
    )  # fmt: skip
