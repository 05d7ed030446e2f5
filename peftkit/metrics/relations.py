"""Scores of relations with a direction, as in SemEval-2010 task 8 (Hendrickx et al. 2010).

For each relation R but the one that means none, with its directions R(e1,e2) and R(e2,e1):

    precision = right / rows predicted as R, in either direction
    recall    = right / rows expected as R, in either direction
    F1        = 2 right / (predicted + expected)
    official F1 = mean of F1 over the relations that any row is expected to have

As in the task's script, a predicted relation that no row is expected to have counts as none. A row
is right if relation and direction are right; R(e2,e1) for R(e1,e2) is a false positive and a
false negative of R. Labels without a direction are relations of one direction.

    micro F1 = 2 right / (predicted + expected), summed over all relations but none
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.classification import METRICS as OF_CLASSES
from peftkit.metrics.classification import Counts, Floats, by_label
from peftkit.metrics.label_sets import micro_f1
from peftkit.metrics.metric import Metric
from peftkit.metrics.relation_direction import split_direction

NONE = -1
"""Index of no relation."""


def relations_of(labels: Iterable[str], no_relation: str) -> tuple[str, ...]:
    """Returns the relations of some labels without their directions, in the order of the labels;
    `no_relation` is none of them.
    """
    names = (split_direction(label)[0] for label in labels if label != no_relation)
    return tuple(dict.fromkeys(names))


def relation_of_labels(labels: Sequence[str], no_relation: str) -> Counts:
    """Returns (labels,), the index of each label's relation in `relations_of`; `NONE` for none."""
    index = {name: place for place, name in enumerate(relations_of(labels, no_relation))}
    found = (split_direction(label)[0] if label != no_relation else None for label in labels)
    return np.array([NONE if name is None else index[name] for name in found], np.int64)


def official_entries(
    expected: Counts, predicted: Counts, relation_of: Counts
) -> tuple[Counts, tuple[int, ...]]:
    """Returns what each row adds to the counts of relations, as pairs of an expected and a
    predicted relation, and the number of pairs of each row.

    A row in the wrong direction has two: one that misses its relation and one that is wrongly
    predicted. All other rows have one.

    Args:
        expected, predicted: (rows,), indices of labels.
        relation_of: (labels,), from `relation_of_labels`.

    Returns:
        (pairs, 2), and (rows,).
    """
    pairs = np.stack([relation_of[expected], relation_of[predicted]], axis=1)
    turned = (pairs[:, 0] == pairs[:, 1]) & (expected != predicted)
    sizes = 1 + turned.astype(np.int64)
    entries = np.repeat(pairs, sizes, axis=0)
    first = (np.cumsum(sizes) - sizes)[turned]
    entries[first, 1] = NONE
    entries[first + 1, 0] = NONE
    return entries, tuple(sizes.tolist())


def micro_counts(expected: Counts, predicted: Counts, relation_of: Counts) -> npt.NDArray[np.int64]:
    """Returns (rows, 3): 1 if a row is right, has a predicted relation, has an expected one."""
    known = relation_of[expected] != NONE
    guessed = np.isin(relation_of[predicted], relation_of[expected][known])
    return np.stack([known & (expected == predicted), guessed, known], axis=1).astype(np.int64)


def official_f1(sums: Floats) -> Floats:
    """Mean F1 of the relations that any row is expected to have; 0 without such relations.

    Args:
        sums: (..., 3 * relations), sums of `label_counts`; the result has the shape (...,).
    """
    right, predicted, expected = by_label(sums)
    f1 = 2 * right / np.maximum(predicted + expected, 1)
    known = expected > 0
    means: Floats = (f1 * known).sum(axis=-1) / np.maximum(known.sum(axis=-1), 1)
    return means


METRICS = {
    "official_f1": Metric("official_f1", statistic=official_f1, bounded=True),
    "micro_f1": Metric("micro_f1", statistic=micro_f1, bounded=True),
    "macro_f1": OF_CLASSES["macro_f1"],
    "accuracy": OF_CLASSES["accuracy"],
}
"""Metrics of relations. The sums of official F1 are of `label_counts` of `official_entries`, those
of micro F1 of `micro_counts`; macro F1 is over all labels, with `no_relation`."""
