"""Scores a classifier that gives each example one class."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from peftkit.data.head import Head
from peftkit.data.ragged import Array
from peftkit.data.rows import Row
from peftkit.metrics.calibration import expected_calibration_error
from peftkit.metrics.classification import ClassificationScores, classification_scores
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Matrix, Mistake, Parts, Score, ScoreTable
from peftkit.tasks.scoring.row_outputs import text_of

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

WORST_MISTAKES = 20
TEMPERATURE_FAILS = (
    "The temperature, chosen on the validation rows, makes the probabilities of these rows worse. "
    "It needs more validation rows."
)
"""Note on a table of calibration errors."""


def class_score(
    metric: Callable[[str], Metric],
    outputs: Outputs,
    expected: Array,
    rows: Sequence[Row],
    head: Head,
    temperature: float | None = None,
) -> Score:
    """Accuracy, F1, confusion matrix, and the mistakes that the model was most certain of.

    Args:
        metric: the task's `metric`.
        outputs: (rows, classes), logits.
        expected: (rows,), indices of labels.
        temperature: divides the logits so that probabilities are calibrated; None if unknown.
    """
    predicted = outputs.argmax(axis=1)
    scores = classification_scores(predicted, expected, len(head.labels))
    ones = np.ones(len(expected))
    f1 = Parts.of(np.stack([expected, predicted], axis=1), len(head.labels))
    return Score.of(
        metric,
        {
            "accuracy": Parts.of(np.stack([expected == predicted, ones], axis=1)),
            "macro_f1": f1,
            "weighted_f1": f1,
            "loss": Parts.of(np.stack([target_losses(outputs, expected), ones], axis=1)),
        },
        tables=(
            label_table(scores, head.labels),
            *calibration_tables(outputs, expected == predicted, temperature),
        ),
        matrices=(Matrix("Confusion", head.labels, scores.confusion_matrix),),
        mistakes=surest_mistakes(
            outputs / (temperature or 1.0), expected, rows, head.labels, text_of
        ),
    )


def label_table(scores: ClassificationScores, labels: tuple[str, ...]) -> ScoreTable:
    """Precision, recall, F1 and support of each label."""
    return ScoreTable(
        "Per label",
        ("label", "precision", "recall", "f1", "support"),
        tuple((name, *row) for name, row in zip(labels, scores.per_class, strict=True)),
    )


def calibration_tables(
    outputs: Outputs, right: Array, temperature: float | None
) -> tuple[ScoreTable, ...]:
    """Returns a table of the calibration error without and with the temperature; none without one.

    Args:
        outputs: (rows, classes), logits.
        right: (rows,), whether the most likely class is the expected one.
    """
    if temperature is None:
        return ()
    rows: list[tuple[str, float, float, float]] = []
    for name, divisor in (("as trained", 1.0), (f"temperature {temperature:.2f}", temperature)):
        chosen = softmax(outputs / divisor).max(axis=1).astype(np.float64)
        error = expected_calibration_error(chosen, right.astype(np.float64))
        rows.append((name, error, float(chosen.mean()), float(right.mean())))
    columns = ("probabilities", "expected calibration error", "mean probability", "accuracy")
    note = TEMPERATURE_FAILS if rows[1][1] > rows[0][1] else ""
    return (ScoreTable("Calibration", columns, tuple(rows), note),)


def target_losses(outputs: Outputs, expected: Any) -> Any:
    """(examples,), the unweighted -log p of each example's expected class."""
    chosen = softmax(outputs)[np.arange(len(expected)), expected]
    return -np.log(np.maximum(chosen, np.finfo(np.float32).tiny))


def softmax(outputs: Outputs) -> Outputs:
    """Turns logits (examples, classes) into probabilities of the same shape."""
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities: Outputs = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def surest_mistakes(
    outputs: Outputs,
    expected: Array,
    rows: Sequence[Row],
    labels: Sequence[str],
    shown: Callable[[Row], str],
) -> tuple[Mistake, ...]:
    """Returns the wrong rows with the most probable answers.

    Args:
        outputs: (rows, classes), logits.
        expected: (rows,), indices of labels.
        shown: returns the text of a row.
    """
    probabilities, predicted = softmax(outputs).max(axis=1), outputs.argmax(axis=1)
    wrong = (expected != predicted).nonzero()[0]
    worst = sorted(wrong, key=lambda index: -probabilities[index])[:WORST_MISTAKES]
    return tuple(
        Mistake(
            row=rows[index].number,
            text=shown(rows[index]),
            expected=labels[expected[index]],
            predicted=labels[predicted[index]],
            probability=float(probabilities[index]),
        )
        for index in worst
    )
