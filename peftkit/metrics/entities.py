"""Entities in sequences of tags, as CoNLL-2000's conlleval counts them (Tjong Kim Sang 2000)."""

from __future__ import annotations

from collections.abc import Sequence

Entity = tuple[int, int, str]
"""Index of the first word, index after the last word, type."""
OUTSIDE = "O"
PREFIXES = "BISUEL"
"""Tag prefixes of all schemes: begin, inside, single or unit, end or last."""


def entities(tags: Sequence[str]) -> set[Entity]:
    """Finds the entities in tags (IOB, IOB2, IOBES or BILOU).

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
