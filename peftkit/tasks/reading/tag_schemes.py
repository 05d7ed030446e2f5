"""Finds the scheme of tags, and repairs sequences that break its rules, as conlleval reads them.

IO      I-X I-X O        or types without prefixes; neighbouring words of a type are one entity
IOB1    I-X I-X B-X O    B- only begins an entity right after another one of its type
BIO     B-X I-X B-X O    B- begins each entity
BIOES   B-X E-X S-X O    E- ends an entity of several words, S- is one of a single word
BILOU   B-X L-X U-X O    the same with other letters
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

from peftkit.data.rows import Row
from peftkit.metrics.entities import OUTSIDE, Entity, entities, split_tag
from peftkit.wording import plural

Scheme = Literal["IO", "IOB1", "BIO", "BIOES", "BILOU", "mixed"]
ENDS = {"BIOES": ("E", "S"), "BILOU": ("L", "U")}
"""Scheme -> prefixes of the last word of several, and of a single word."""


@dataclass(frozen=True)
class Faults:
    """What breaks the rules of a scheme in some rows."""

    counts: Counter[str]
    """Kind of fault -> how often it occurs."""
    first: dict[str, tuple[int, str]]
    """Kind -> number of the first row that has it, and the tags there."""

    def describe(self) -> str:
        """Returns a text such as ``3 I- after O (first in row 7: `O I-PER`)``."""
        return ", ".join(
            f"{count:,} {kind} (first in row {self.first[kind][0]}: `{self.first[kind][1]}`)"
            for kind, count in self.counts.most_common()
        )


@dataclass(frozen=True)
class Tags:
    """The tags of rows, all in one scheme."""

    scheme: Scheme
    """The scheme of the file; `mixed` files are converted to BIO."""
    rows: tuple[list[str], ...]
    faults: Faults

    def notes(self) -> Iterator[str]:
        """Yields notes on tags that were changed."""
        if self.scheme == "mixed":
            yield "tags of several schemes are mixed; all become BIO, as conlleval reads them"
        if count := self.faults.counts.total():
            yield (
                f"{plural(count, 'tag')} break the scheme {self.scheme}, and begin a new entity, "
                f"as in conlleval: {self.faults.describe()}"
            )


def read_tags(rows: Sequence[Row]) -> Tags:
    """Returns the tags `labels` of rows in one scheme, without faults."""
    labels: list[list[str]] = [row.values["labels"] for row in rows]
    scheme = scheme_of(labels)
    counts: Counter[str] = Counter()
    first: dict[str, tuple[int, str]] = {}
    whole = []
    for row, tags in zip(rows, labels, strict=True):
        found = list(faults(tags, scheme))
        for kind, place in found:
            counts[kind] += 1
            first.setdefault(kind, (row.number, " ".join(tags[max(0, place - 1) : place + 1])))
        changed = found or scheme == "mixed"
        whole.append(write_tags(entities(tags), len(tags), scheme) if changed else tags)
    return Tags(scheme, tuple(whole), Faults(counts, first))


def scheme_of(rows: Iterable[Sequence[str]]) -> Scheme:
    """Returns the scheme of the tags of all rows together."""
    pairs = {pair for tags in rows for pair in pairwise((OUTSIDE, *tags))}
    prefixes = {split_tag(tag)[0] for _, tag in pairs if tag != OUTSIDE}
    if "" in prefixes and len(prefixes) > 1:
        return "mixed" if any(tag == OUTSIDE for _, tag in pairs) else "IO"
    if prefixes <= {"", "I"}:
        return "IO"
    if prefixes & {"E", "S"} and prefixes & {"L", "U"}:
        return "mixed"
    if prefixes & {"E", "S"}:
        return "BIOES"
    if prefixes & {"L", "U"}:
        return "BILOU"
    begins = [(split_tag(before), split_tag(tag)) for before, tag in pairs]
    only_between = all(a[1] == b[1] for a, b in begins if b[0] == "B")
    return "IOB1" if only_between else "BIO"


def faults(tags: Sequence[str], scheme: Scheme) -> Iterator[tuple[str, int]]:
    """Yields each fault of a row as (kind, index of the tag)."""
    if scheme in ("IO", "IOB1", "mixed"):
        return
    ends = ENDS.get(scheme, ())
    for place, pair in enumerate(pairwise((OUTSIDE, *tags, OUTSIDE))):
        (before, kind_before), (prefix, kind) = map(split_tag, pair)
        is_open = before in ("B", "I")
        goes_on = prefix in ("I", *ends[:1])
        if goes_on and not (is_open and kind == kind_before):
            wrong = "another type" if is_open else f"{before}-" if before else OUTSIDE
            yield f"{prefix}- after {wrong}", place
        elif ends and is_open and not goes_on:
            yield f"{before}- without {ends[0]}-", place


def write_tags(found: Collection[Entity], length: int, scheme: Scheme) -> list[str]:
    """Returns the tags of a row with some entities; in BIO if the scheme does not tell entities
    apart.
    """
    tags = [OUTSIDE] * length
    end, single = ENDS.get(scheme, ("I", "B"))
    for start, stop, kind in found:
        tags[start:stop] = [f"I-{kind}"] * (stop - start)
        tags[stop - 1] = f"{end}-{kind}"
        tags[start] = f"{'B' if stop - start > 1 else single}-{kind}"
    return tags


def all_tags(tags: Collection[str], scheme: Scheme) -> set[str]:
    """Adds to the tags of some rows those that their types may have in other rows."""
    if scheme == "IO":
        return set(tags)
    prefixes = {"IOB1": "BI", "BIO": "BI", "BIOES": "BIES", "BILOU": "BILU"}.get(scheme, "BI")
    types = {split_tag(tag)[1] for tag in tags if tag != OUTSIDE}
    return {*tags, *(f"{prefix}-{kind}" for kind in types for prefix in prefixes)}
