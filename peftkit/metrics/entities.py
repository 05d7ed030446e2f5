"""Entities in sequences of tags, as CoNLL-2000's conlleval counts them (Tjong Kim Sang 2000).

precision = right / predicted     recall = right / expected     F = 2 right / (predicted + expected)

An entity is right if its first word, its last word and its type are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

OUTSIDE = "O"


def entities(tags: Sequence[str]) -> set[tuple[int, int, str]]:
    """(first word, word after the last, type) of each entity. `B-X` begins one, and so does `I-X`
    after anything but `B-X` or `I-X`; a tag without a prefix is the type of a run of equal tags.
    """
    spans, start, kind = set(), 0, ""
    for place, tag in enumerate((*tags, OUTSIDE)):
        prefix, dash, name = tag.partition("-")
        own = name if dash else ("" if tag == OUTSIDE else tag)
        if own != kind or (prefix == "B" and dash):
            if kind:
                spans.add((start, place, kind))
            start, kind = place, own
    return spans


def entity_counts(
    expected: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]
) -> npt.NDArray[np.float64]:
    """(rows, 3): right, predicted and expected entities of each row."""
    rows = []
    for tags, guessed in zip(expected, predicted, strict=True):
        right, found = entities(tags), entities(guessed)
        rows.append((len(right & found), len(found), len(right)))
    return np.array(rows, np.float64).reshape(-1, 3)


def entity_f1(sums: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """(..., 3) sums of counts -> (...,) F; 0 where there are no entities."""
    right, found, wanted = np.moveaxis(sums, -1, 0)
    total = found + wanted
    f: npt.NDArray[np.float64] = np.zeros_like(total)
    f[total > 0] = 2 * right[total > 0] / total[total > 0]
    return f
