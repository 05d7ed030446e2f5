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
from peftkit.errors import DataError
from peftkit.metrics.entities import OUTSIDE, Entity, entities, split_tag
from peftkit.wording import plural, verb

Scheme = Literal["IO", "IOB1", "BIO", "BIOES", "BILOU", "mixed"]
ENDS = {"BIOES": ("E", "S"), "BILOU": ("L", "U")}
"""Scheme -> prefixes of the last word of several, and of a single word."""


@dataclass(frozen=True)
class Faults:
    """What breaks the rules of a scheme in some rows."""

    counts: Counter[str]
    """Kind of fault -> how often it occurs."""
    first: dict[str, str]
    """Kind -> the first place that has it, with its tag and the one before."""

    def describe(self) -> str:
        """Returns a text such as
        ``3 I- after O (first in line 7 of `a.conll`: `I-PER` after `O`)``.
        """
        return ", ".join(
            f"{count:,} {kind} (first in {self.first[kind]})"
            for kind, count in self.counts.most_common()
        )


@dataclass(frozen=True)
class Tags:
    """The tags of rows, all in one scheme."""

    scheme: Scheme
    """The scheme of the file; `mixed` files are converted to BIO."""
    rows: tuple[list[str], ...]
    faults: Faults

    mixed: str = ""
    """The first tag with each prefix, and its place, if schemes are mixed."""

    def counted(self) -> Iterator[list[tuple[int, str]]]:
        """Yields, for each row, the index of the first word and the type of each entity, or of
        each word; see `unit`.
        """
        by_word = self.unit == "words"
        for tags in self.rows:
            yield (
                list(enumerate(tags))
                if by_word
                else [(start, kind) for start, _, kind in sorted(entities(tags))]
            )

    @property
    def unit(self) -> str:
        """What `counted` gives: `entities`, or `words` if tags have no prefix and none is `O`, as
        for parts of speech.
        """
        by_word = self.scheme == "IO" and all(OUTSIDE not in tags for tags in self.rows)
        return "words" if by_word else "entities"

    def refuse_faults(self) -> None:
        """Raises DataError if tags break the scheme, or if several schemes are mixed."""
        if count := self.faults.counts.total():
            raise DataError(
                f"{plural(count, 'tag')} {verb(count, 'break')} the scheme {self.scheme}: "
                f"{self.faults.describe()}",
                "correct them, or begin an entity at each: `--task.data.broken repair`",
            )
        if self.scheme == "mixed":
            raise DataError(
                f"tags of several schemes are mixed: {self.mixed}",
                "write all in one scheme, or convert them to BIO: `--task.data.broken repair`",
            )

    def notes(self) -> Iterator[str]:
        """Yields notes on tags that were changed."""
        if self.scheme == "mixed":
            yield (
                f"tags of several schemes are mixed ({self.mixed}); all become BIO, as conlleval "
                "reads them"
            )
        if count := self.faults.counts.total():
            yield (
                f"{plural(count, 'tag')} {verb(count, 'break')} the scheme {self.scheme}, and "
                f"{verb(count, 'begin')} a new entity, as in conlleval: {self.faults.describe()}"
            )


def read_tags(rows: Sequence[Row]) -> Tags:
    """Returns the tags `labels` of rows in one scheme, without faults."""
    labels: list[list[str]] = [row.values["labels"] for row in rows]
    scheme = scheme_of(labels)
    counts: Counter[str] = Counter()
    first: dict[str, str] = {}
    whole = []
    for row, tags in zip(rows, labels, strict=True):
        found = list(faults(tags, scheme))
        for kind, place in found:
            counts[kind] += 1
            if kind not in first:
                first[kind] = _shown(row, tags, place)
        changed = found or scheme == "mixed"
        whole.append(write_tags(entities(tags), len(tags), scheme) if changed else tags)
    mixed = _first_of_each_prefix(rows) if scheme == "mixed" else ""
    return Tags(scheme, tuple(whole), Faults(counts, first), mixed)


def _first_of_each_prefix(rows: Sequence[Row]) -> str:
    """Returns a text such as ``first `B-X` in line 3 of `a.conll`, `U-X` in line 9``."""
    first: dict[str, str] = {}
    for row in rows:
        for place, tag in enumerate(row.values["labels"]):
            prefix = split_tag(tag)[0]
            if tag != OUTSIDE and prefix not in first:
                first[prefix] = f"`{tag}` in {row.place_of(place)}"
    return f"first {', '.join(first.values())}"


def _shown(row: Row, tags: Sequence[str], place: int) -> str:
    """Returns a place in a row, its tag and the one before; `place` may be the end of the row."""
    if place == len(tags):
        return f"{row.place_of(place - 1)}: `{tags[-1]}` at the end"
    before = f"after `{tags[place - 1]}`" if place else "at the beginning"
    return f"{row.place_of(place)}: `{tags[place]}` {before}"


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
