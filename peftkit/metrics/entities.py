"""Entities in sequences of tags, as CoNLL-2000's conlleval counts them (Tjong Kim Sang 2000).

precision = right / predicted     recall = right / expected     F = 2 right / (predicted + expected)

An entity is right if its first word, its last word and its type are all right.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import Metric

OUTSIDE = "O"
PREFIXES = "BISUEL"
"""Tag prefixes of all schemes: begin, inside, single or unit, end or last."""


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """Finds the entities in tags (IOB, IOB2, IOBES or BILOU). Each is (index of the first word,
    index after the last word, type).

    `B-X`, `S-X`, `U-X` and a change of type begin an entity; `E-X`, `L-X`, `S-X` and `U-X` end one.
    A run of equal tags without a prefix is one entity.
    """
    spans, start, kind, ended = set(), 0, "", False
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, new_kind = split_tag(tag)
        if new_kind != kind or ended or prefix in ("B", "S", "U"):
            if kind:
                spans.add((start, place, kind))
            start, kind = place, new_kind
        ended = prefix in ("E", "L", "S", "U")
    return spans


def split_tag(tag: str) -> tuple[str, str]:
    """Splits a tag into prefix and type. Without a known prefix, the whole tag is the type; the
    type of `O` is empty.
    """
    prefix, dash, kind = tag.partition("-")
    if dash and len(prefix) == 1 and prefix in PREFIXES:
        return prefix, kind
    return "", "" if tag == OUTSIDE else tag


def entity_counts(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> npt.NDArray[np.float64]:
    """Counts the right, predicted and expected entities of each row, (rows, 3)."""
    rows = []
    for tags, predicted_tags in zip(expected, predicted, strict=True):
        true, guesses = entities(tags), entities(predicted_tags)
        rows.append((len(true & guesses), len(guesses), len(true)))
    return np.array(rows, np.float64).reshape(-1, 3)


def entity_f1(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """F score: sums of `entity_counts` (..., 3) -> (...,); 0 if there are no entities."""
    right, predicted, expected = np.moveaxis(sums, -1, 0)
    total = predicted + expected
    f: npt.NDArray[np.float64] = np.zeros(total.shape)
    f[total > 0] = 2 * right[total > 0] / total[total > 0]
    return f


ENTITY_F1 = Metric("entity_f1", statistic=entity_f1, bounded=True)
"""The F score of sums of `entity_counts`."""
