"""Finds tags that are probably mistakes: without the prefix that the others have, types that differ
in case only, and types with hardly an entity.
"""

from __future__ import annotations

import difflib
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence

from peftkit.data.rows import Row
from peftkit.errors import DataError, quoted
from peftkit.metrics.entities import OUTSIDE, split_tag
from peftkit.tasks.reading.tag_schemes import Tags
from peftkit.wording import has, plural, verb

SHOWN = 3
"""Most tags or types that a message names."""
FEW_ENTITIES = 3
"""A note is written on types with fewer entities than this in the training split."""
OUTSIDES = ("o", "0", "_", "-")
"""Tags, in lower case, that some files have in place of `O`."""
SIMILAR = 0.6
"""Least similarity of a rare type to the one that it may be meant to be."""
Place = tuple[Row, int]
"""A row, and the index of a word in it."""


def check_tags(rows: Sequence[Row]) -> None:
    """Raises DataError if some tags lack the prefix of the others, or if types differ in case only.

    Args:
        rows: each has its tags as its value `labels`.
    """
    counts: Counter[str] = Counter()
    first: dict[str, Place] = {}
    for row in rows:
        for word, tag in enumerate(row.values["labels"]):
            counts[tag] += 1
            if tag not in first:
                first[tag] = (row, word)
    _check_prefixes(counts, first)
    _check_case(counts, first)


def rare_types(rows: Sequence[Row], tags: Tags) -> Iterator[str]:
    """Yields a note on types with fewer than `FEW_ENTITIES` entities.

    Args:
        rows: the training rows, the first ones of those from which `tags` were read.
    """
    counts: Counter[str] = Counter()
    first: dict[str, Place] = {}
    for row, found in zip(rows, tags.counted(), strict=False):
        for word, kind in found:
            counts[kind] += 1
            if kind not in first:
                first[kind] = (row, word)
    rare = sorted((count, kind) for kind, count in counts.items() if count < FEW_ENTITIES)
    if not rare:
        return
    shown = ", ".join(
        f"`{kind}` ({count}, first in {_place(first[kind])}{_meant(kind, counts)})"
        for count, kind in rare[:SHOWN]
    )
    more = f", and {len(rare) - SHOWN} more" * (len(rare) > SHOWN)
    yield (
        f"{plural(len(rare), 'type')} {has(len(rare))} fewer than "
        f"{FEW_ENTITIES} {tags.unit} in training, too few to learn: {shown}{more}"
    )


def first_of(tags: Iterable[str], rows: Iterable[Row], labels: Iterable[Sequence[str]]) -> str:
    """Returns the place of the first word that has one of some tags.

    Args:
        labels: the tags of each of the rows, in one scheme.
    """
    wanted = set(tags)
    for row, of_row in zip(rows, labels, strict=True):
        for word, tag in enumerate(of_row):
            if tag in wanted:
                return row.place_of(word)
    raise ValueError(f"no row has {quoted(wanted)}")


def _check_prefixes(counts: Mapping[str, int], first: Mapping[str, Place]) -> None:
    """Raises DataError on tags without a prefix, if more words have tags with one.

    Tags such as `o` and `b-per`, which are `O` or one of the others in another case, are always
    refused if others have a prefix.
    """
    prefixed = {tag: count for tag, count in counts.items() if split_tag(tag)[0]}
    bare = [tag for tag in counts if tag not in prefixed and tag != OUTSIDE]
    wrong = {*OUTSIDES, *(tag.casefold() for tag in prefixed)}
    words = sum(counts[tag] for tag in bare if tag.casefold() not in wrong)
    if not bare or sum(prefixed.values()) <= words:
        return
    bare.sort(key=lambda tag: (counts[tag], tag))
    shown = ", ".join(
        f"`{tag}` ({plural(counts[tag], 'word')}, first in {_place(first[tag])})"
        for tag in bare[:SHOWN]
    )
    more = f", and {len(bare) - SHOWN} more" * (len(bare) > SHOWN)
    known = sorted(prefixed, key=lambda tag: (-prefixed[tag], tag))
    raise DataError(
        f"{plural(len(bare), 'tag')} {verb(len(bare), 'lack')} the prefix that the others have, "
        f"such as {quoted(known[:2])}: {shown}{more}",
        _with_prefix(bare[0], known, first[bare[0]]),
    )


def _with_prefix(tag: str, known: Sequence[str], place: Place) -> str:
    """Returns a hint on a tag without a prefix, the tags with one given."""
    if tag.casefold() in OUTSIDES:
        return (
            f"if `{tag}` means no entity, write `{OUTSIDE}`, or name all tags in "
            "`task.data.label_names`"
        )
    types = {split_tag(other)[1].casefold(): split_tag(other)[1] for other in known}
    written = {other.casefold(): other for other in known}
    if right := written.get(tag.casefold()) or written.get(f"b-{tag.casefold()}"):
        return f"write `{right}`"
    if tag.casefold() in types:
        return f"write `B-{types[tag.casefold()]}`"
    row, word = place
    if word == 0 and row.number == 1 and row.origin.word_a_line:
        return "remove line 1 if it is a header"
    close = difflib.get_close_matches(tag.casefold(), list(written), n=1, cutoff=SIMILAR)
    if close:
        return f"did you mean `{written[close[0]]}`?"
    return f"write `B-{tag}`, or `{OUTSIDE}` outside of entities"


def _check_case(counts: Mapping[str, int], first: Mapping[str, Place]) -> None:
    """Raises DataError if types differ in case only."""
    words: Counter[str] = Counter()
    places: dict[str, Place] = {}
    for tag, count in counts.items():
        if tag != OUTSIDE:
            kind = split_tag(tag)[1]
            words[kind] += count
            places.setdefault(kind, first[tag])
    spelled: dict[str, list[str]] = defaultdict(list)
    for kind in sorted(words, key=lambda kind: (-words[kind], kind)):
        spelled[kind.casefold()].append(kind)
    several = [kinds for kinds in spelled.values() if len(kinds) > 1]
    if not several:
        return
    shown = "; ".join(
        " and ".join(
            f"`{kind}` ({plural(words[kind], 'word')}, first in {_place(places[kind])})"
            for kind in kinds
        )
        for kinds in several[:SHOWN]
    )
    more = f"; and {len(several) - SHOWN} more" * (len(several) > SHOWN)
    raise DataError(
        f"some types differ in case only: {shown}{more}",
        "write each in one way; if they are different types, name all of them in "
        "`task.data.label_names`",
    )


def _meant(kind: str, counts: Mapping[str, int]) -> str:
    """Returns a question for a rare type that is spelled like a frequent one."""
    frequent = [other for other, count in counts.items() if count >= FEW_ENTITIES]
    close = difflib.get_close_matches(kind, frequent, n=1, cutoff=SIMILAR)
    return f"; is it `{close[0]}`?" if close else ""


def _place(place: Place) -> str:
    row, word = place
    return row.place_of(word)
