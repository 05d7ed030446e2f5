"""Scores tags of words: entities by scheme and by type, their errors, and the worst mistakes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.metrics.entities import Entity, entities
from peftkit.metrics.entity_schemes import SCHEMES, Pair, SchemeCounts, matched, scheme_counts
from peftkit.metrics.metric import Metric
from peftkit.metrics.strict_entities import METRICS, entity_counts
from peftkit.tasks.encoding.token_windows import split_by_row
from peftkit.tasks.reading.text_words import joined
from peftkit.tasks.score import Matrix, Mistake, Parts, Score, ScoreTable
from peftkit.tasks.scoring.class_scores import WORST_MISTAKES, softmax, target_losses

if TYPE_CHECKING:
    from peftkit.data.ragged import Array
    from peftkit.data.rows import Row
    from peftkit.tasks.task import Outputs

NONE = "none"
"""The type, in the matrix, of an entity that is missed or spurious."""
KINDS = {
    (True, True): "right",
    (False, True): "boundary only (type right)",
    (True, False): "type only (boundaries right)",
    (False, False): "boundaries and type",
}
"""(Whether the boundaries are right, whether the type is) -> kind of error."""


@dataclass(frozen=True)
class _Compared:
    """The entities of a row."""

    expected: set[Entity]
    predicted: set[Entity]
    pairs: list[Pair]
    certainty: Array
    """(words,), probability of each word's predicted tag."""


def entity_score(
    metric: Callable[[str], Metric], kept: Outputs, examples: Examples, head: Head
) -> Score:
    """Strict precision, recall and F1, accuracy of words, tables of errors, and the mistakes that
    the model was most certain of.

    Args:
        metric: the task's `metric`.
        kept: (words, tags), logits.
    """
    chosen, labels = kept.argmax(axis=1), head.labels
    columns = (
        examples.targets, chosen, softmax(kept).max(axis=1), chosen == examples.targets,
        target_losses(kept, examples.targets),
    )  # fmt: skip
    expected, predicted, certain, hits, losses = (split_by_row(c, examples) for c in columns)
    rows = []
    for tags, guesses, certainty in zip(expected, predicted, certain, strict=True):
        found = entities([labels[tag] for tag in tags]), entities([labels[tag] for tag in guesses])
        rows.append(_Compared(*found, matched(*found), certainty))
    counts = entity_counts([row.expected for row in rows], [row.predicted for row in rows])
    return Score.of(
        metric,
        {
            **dict.fromkeys(METRICS, Parts.of(counts)),
            "accuracy": Parts.of(np.array([(row.sum(), len(row)) for row in hits])),
            "loss": Parts.of(np.array([(row.sum(), len(row)) for row in losses])),
        },
        tables=(_type_table(rows), _scheme_table(rows), _error_table(rows)),
        matrices=_matrices(rows),
        mistakes=_mistakes(rows, examples.rows),
    )


def _type_table(rows: Sequence[_Compared]) -> ScoreTable:
    """Strict scores of each type."""
    right = Counter(kind for row in rows for *_, kind in row.expected & row.predicted)
    predicted = Counter(kind for row in rows for *_, kind in row.predicted)
    expected = Counter(kind for row in rows for *_, kind in row.expected)
    lines = []
    for kind in sorted(predicted | expected):
        counts = SchemeCounts(
            right[kind], 0, expected[kind] - right[kind], predicted[kind] - right[kind]
        )
        lines.append((kind, *counts.scores, expected[kind]))
    columns = ("type", "precision", "recall", "f1", "support")
    return ScoreTable("Entities per type", columns, tuple(lines))


def _scheme_table(rows: Sequence[_Compared]) -> ScoreTable:
    """Counts and scores in each scheme."""
    pairs = [(row.expected, row.predicted) for row in rows]
    lines = []
    for scheme in SCHEMES:
        found = scheme_counts(scheme, pairs)
        counts = (found.correct, found.incorrect, found.missed, found.spurious)
        lines.append((scheme, *counts, *found.scores))
    columns = ("scheme", "correct", "incorrect", "missed", "spurious", "precision", "recall", "f1")
    return ScoreTable("Entities by scheme", columns, tuple(lines))


def _error_table(rows: Sequence[_Compared]) -> ScoreTable:
    """How many entities are wrong in which way."""
    found: Counter[str] = Counter()
    for row in rows:
        for one, other in row.pairs:
            if one is None or other is None:
                found["spurious" if one is None else "missed"] += 1
            else:
                found[KINDS[one[:2] == other[:2], one[2] == other[2]]] += 1
    kinds = (*KINDS.values(), "missed", "spurious")
    total = max(1, found.total())
    lines = tuple((kind, found[kind], found[kind] / total) for kind in kinds)
    return ScoreTable("Kinds of errors", ("entities", "number", "share"), lines)


def _matrices(rows: Sequence[_Compared]) -> tuple[Matrix, ...]:
    """Expected types by predicted ones; empty if there is no entity."""
    pairs = Counter(
        (one[2] if one else NONE, other[2] if other else NONE)
        for row in rows
        for one, other in row.pairs
    )
    types = (*sorted({kind for pair in pairs for kind in pair} - {NONE}), NONE)
    if len(types) == 1:
        return ()
    counts = tuple(tuple(pairs[one, other] for other in types) for one in types)
    return (Matrix("Confused types", types, counts),)


def _mistakes(rows: Sequence[_Compared], sources: Sequence[Row]) -> tuple[Mistake, ...]:
    """The rows with the errors that the model was most certain of."""
    wrong: list[tuple[float, int]] = []
    for number, row in enumerate(rows):
        if errors := row.expected ^ row.predicted:
            certain = max(float(row.certainty[start:end].min()) for start, end, _ in errors)
            wrong.append((certain, number))
    worst = sorted(wrong, key=lambda error: -error[0])[:WORST_MISTAKES]
    found = []
    for certain, number in worst:
        words = sources[number].values["tokens"]
        text = sources[number].values.get("text") or joined(words)[0]
        row = rows[number]
        expected, predicted = _shown(row.expected, words), _shown(row.predicted, words)
        found.append(Mistake(sources[number].number, text, expected, predicted, certain))
    return tuple(found)


def _shown(found: set[Entity], words: Sequence[str]) -> str:
    """Returns entities as text: `London (LOC), Ada (PER)`."""
    shown = (f"{joined(words[start:end])[0]} ({kind})" for start, end, kind in sorted(found))
    return ", ".join(shown) or NONE
