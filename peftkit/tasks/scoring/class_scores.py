"""Scores a classifier that gives each example one class."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.metrics.bootstrap import sums_intervals
from peftkit.metrics.classification import (
    ClassificationScores,
    accuracy,
    classification_scores,
    label_counts,
    macro_f1,
    weighted_f1,
)
from peftkit.tasks.score import Matrix, Mistake, Parts, Score, ScoreTable

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs

WORST_MISTAKES = 20


def class_score(outputs: Outputs, examples: Examples, head: Head) -> Score:
    """Accuracy, F1, confusion matrix, and the mistakes that the model was most certain of.

    Args:
        outputs: (examples, classes), logits.
    """
    expected = examples.targets
    predicted = outputs.argmax(axis=1)
    scores = classification_scores(predicted, expected, len(head.labels))
    ones, num_labels = np.ones(len(expected)), len(head.labels)
    right = np.stack([expected == predicted, ones], axis=1)
    f1 = Parts.of(np.stack([expected, predicted], axis=1), num_labels)
    # rows with the same expected and predicted label add the same counts
    _, first, sizes = np.unique(
        expected * num_labels + predicted, return_index=True, return_counts=True
    )
    counts = label_counts(expected[first], predicted[first], num_labels)
    return Score(
        metrics=scores.metrics(),
        intervals=sums_intervals(
            counts,
            {"accuracy": accuracy, "macro_f1": macro_f1, "weighted_f1": weighted_f1},
            sizes,
        ),
        tables=(label_table(scores, head.labels),),
        matrices=(Matrix("Confusion", head.labels, scores.confusion_matrix),),
        mistakes=_mistakes(outputs, expected, predicted, examples, head),
        parts={
            "accuracy": Parts.of(right),
            "loss": Parts.of(np.stack([target_losses(outputs, expected), ones], axis=1)),
            "macro_f1": f1,
            "weighted_f1": f1,
        },
    )


def label_table(scores: ClassificationScores, labels: tuple[str, ...]) -> ScoreTable:
    """Precision, recall, F1 and support of each label."""
    return ScoreTable(
        "Per label",
        ("label", "precision", "recall", "f1", "support"),
        tuple((name, *row) for name, row in zip(labels, scores.per_class, strict=True)),
    )


def target_losses(outputs: Outputs, expected: Any) -> Any:
    """(examples,), the unweighted -log p of each example's expected class."""
    chosen = softmax(outputs)[np.arange(len(expected)), expected]
    return -np.log(np.maximum(chosen, np.finfo(np.float32).tiny))


def softmax(outputs: Outputs) -> Outputs:
    """Turns logits (examples, classes) into probabilities of the same shape."""
    shifted = np.exp(outputs - outputs.max(axis=1, keepdims=True))
    probabilities: Outputs = shifted / shifted.sum(axis=1, keepdims=True)
    return probabilities


def _mistakes(
    outputs: Outputs, expected: Any, predicted: Any, examples: Examples, head: Head
) -> tuple[Mistake, ...]:
    probabilities = softmax(outputs).max(axis=1)
    wrong = (expected != predicted).nonzero()[0]
    worst = sorted(wrong, key=lambda index: -probabilities[index])[:WORST_MISTAKES]
    rows = [examples.row(index) for index in worst]
    return tuple(
        Mistake(
            row=row.number,
            text="\n".join(filter(None, (row.values["text"], row.values.get("text_pair")))),
            expected=head.labels[expected[index]],
            predicted=head.labels[predicted[index]],
            probability=float(probabilities[index]),
        )
        for index, row in zip(worst, rows, strict=True)
    )
