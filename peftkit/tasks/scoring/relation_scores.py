"""Scores relations with directions: the official F1, tables, the confusions, and the mistakes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.ragged import Array
from peftkit.data.rows import Row
from peftkit.metrics.classification import classification_scores
from peftkit.metrics.metric import Metric
from peftkit.metrics.relation_direction import split_direction
from peftkit.metrics.relations import (
    NONE,
    micro_counts,
    official_entries,
    relation_of_labels,
    relations_of,
)
from peftkit.tasks.reading.entity_marks import shown
from peftkit.tasks.score import Matrix, Parts, Score, ScoreTable
from peftkit.tasks.scoring.class_scores import (
    calibration_tables,
    label_table,
    surest_mistakes,
    target_losses,
)

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

TURNED = "reversed"
"""Name of the matrix's column with the right relation in the wrong direction."""


def relation_score(
    metric: Callable[[str], Metric],
    outputs: Outputs,
    expected: Array,
    rows: Sequence[Row],
    labels: tuple[str, ...],
    no_relation: str,
    temperature: float | None = None,
) -> Score:
    """Official F1, micro and macro F1, accuracy, tables, confusions and the worst mistakes.

    Args:
        metric: the task's `metric`.
        outputs: (rows, labels), logits.
        expected: (rows,), indices of labels.
        no_relation: the label that means none.
        temperature: divides the logits so that probabilities are calibrated; None if unknown.
    """
    predicted = outputs.argmax(axis=1)
    ones = np.ones(len(expected))
    relation_of = relation_of_labels(labels, no_relation)
    names = relations_of(labels, no_relation)
    entries, sizes = official_entries(expected, predicted, relation_of)
    columns = tuple(tuple(column) for column in entries.T.tolist())
    scores = classification_scores(predicted, expected, len(labels))
    counts = _confusions(expected, predicted, relation_of, len(names))
    directed = any(split_direction(label)[1] for label in labels)
    return Score.of(
        metric,
        {
            "official_f1": Parts(columns, max(1, len(names)), sizes),
            "micro_f1": Parts.of(micro_counts(expected, predicted, relation_of)),
            "macro_f1": Parts.of(np.stack([expected, predicted], axis=1), len(labels)),
            "accuracy": Parts.of(np.stack([expected == predicted, ones], axis=1)),
            "loss": Parts.of(np.stack([target_losses(outputs, expected), ones], axis=1)),
        },
        tables=(
            *([_relation_table(names, counts)] if directed else []),
            label_table(scores, labels),
            *calibration_tables(outputs, expected == predicted, temperature),
        ),
        matrices=(_matrix((*names, no_relation), counts, directed),),
        mistakes=surest_mistakes(outputs / (temperature or 1.0), expected, rows, labels, shown),
    )


def _confusions(expected: Array, predicted: Array, relation_of: Array, relations: int) -> Array:
    """Counts rows by expected relation and predicted one, (relations + 1, relations + 2): the last
    row and the column before the last are those of no relation, the last column has the rows with
    the right relation in the wrong direction.
    """
    wanted, guessed = relation_of[expected], relation_of[predicted]
    turned = (wanted == guessed) & (expected != predicted)
    found = np.where(turned, relations + 1, np.where(guessed == NONE, relations, guessed))
    counts = np.zeros((relations + 1, relations + 2), np.int64)
    np.add.at(counts, (np.where(wanted == NONE, relations, wanted), found), 1)
    return counts


def _relation_table(names: Sequence[str], counts: Array) -> ScoreTable:
    """Official scores of each relation, as the task's own scorer prints them."""
    rows = []
    for place, name in enumerate(names):
        right, turned = int(counts[place, place]), int(counts[place, -1])
        support = int(counts[place].sum())
        guesses = int(counts[:, place].sum()) + turned
        precision, recall = right / max(1, guesses), right / max(1, support)
        f1 = 2 * right / max(1, guesses + support)
        rows.append((name, precision, recall, f1, support, turned))
    columns = ("relation", "precision", "recall", "f1", "support", TURNED)
    return ScoreTable("Per relation, with its direction", columns, tuple(rows))


def _matrix(names: tuple[str, ...], counts: Array, directed: bool) -> Matrix:
    """The confusions of relations; with a column for wrong directions if labels have directions."""
    used = counts.sum(axis=1) + counts[:, : len(names)].sum(axis=0) > 0
    shown = [place for place, is_used in enumerate(used) if is_used or place < len(names) - 1]
    columns = [*shown, len(names)] if directed else shown
    labels = tuple(names[place] for place in shown)
    return Matrix(
        "Confused relations",
        labels,
        tuple(map(tuple, counts[np.ix_(shown, columns)].tolist())),
        (*labels, TURNED) if directed else None,
    )
