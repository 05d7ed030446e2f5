"""Counts what happened to every row and every token, so that nothing is lost silently."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from peftkit.data.encoded import Encoded
from peftkit.data.rows import Malformed
from peftkit.wording import noun, plural

FIRST_ROWS = 5
MOST_KINDS = 8


@dataclass(frozen=True)
class ReadCounts:
    """Counts of one file: rows read = malformed + duplicate + conflicting + not drawn + kept."""

    name: str
    unit: str
    read: int
    kept: int = 0
    malformed: dict[str, list[int]] = field(default_factory=dict)
    """What is wrong -> numbers of the rows."""
    duplicate: int = 0
    """Repeats of a row that was kept."""
    conflicting: int = 0
    """Rows with different answers to the same input; all of them are left out."""
    not_drawn: int = 0
    """Rows left out by `max_rows`."""
    num_lines: int = 0
    """Lines of a delimited file: header, blank lines, rows and `continued`."""
    continued: list[int] = field(default_factory=list)
    """Numbers of the lines that continue a quoted field of the row above."""


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split: its rows and, after encoding, its tokens."""

    rows: int
    leaked: int = 0
    """Rows removed because the test or validation split has them too."""
    strata: dict[str, int] = field(default_factory=dict)
    """Value of the stratum, such as a label -> number of rows."""
    truncated: int = 0
    unsupervised: int = 0
    """Rows left out because nothing in them was supervised."""
    too_long: int = 0
    """Rows left out because they were longer than `max_length`."""
    tokens: int = 0
    supervised: int = 0
    """Targets that count in the loss."""
    unknown: int = 0
    """Tokens that the tokenizer did not know."""
    padding: float | None = None
    """Share of padding in the model's inputs; known after training."""


@dataclass(frozen=True)
class Ledger:
    """The account of the data, printed before training and kept in run.json."""

    read: tuple[ReadCounts, ...]
    splits: dict[str, SplitCounts]
    notes: tuple[str, ...] = ()
    stratum: str = ""
    """The column whose values `strata` counts: the label, for a classifier."""

    def with_encoded(self, encoded: Encoded) -> Ledger:
        """Returns a copy with the counts that encoding adds to each split."""
        splits = {
            name: replace(
                self.splits[name],
                truncated=examples.truncated,
                unsupervised=examples.unsupervised,
                too_long=examples.too_long,
                tokens=examples.num_tokens,
                supervised=examples.num_supervised,
                unknown=examples.unknown_tokens,
            )
            for name, examples in encoded.splits().items()
        }
        return replace(self, splits=splits, notes=(*self.notes, *encoded.notes))

    def with_padding(self, padding: float) -> Ledger:
        """Returns a copy with the share of padding in training."""
        train = replace(self.splits["train"], padding=padding)
        return replace(self, splits={**self.splits, "train": train})

    def to_json(self) -> dict[str, Any]:
        """The ledger as run.json keeps it."""
        return asdict(self)


def by_kind(malformed: list[Malformed]) -> dict[str, list[int]]:
    """Kind -> row numbers, the most frequent kind first."""
    counts = Counter(row.kind for row in malformed)
    return {
        kind: sorted(row.number for row in malformed if row.kind == kind)
        for kind, _ in counts.most_common()
    }


def describe_malformed(malformed: dict[str, list[int]], unit: str) -> str:
    """Returns a text such as `3 too few fields (lines 4, 9, 12), 1 empty text (line 7)`."""
    parts = []
    for kind, numbers in malformed.items():
        first = ", ".join(map(str, numbers[:FIRST_ROWS]))
        more = ", ..." if len(numbers) > FIRST_ROWS else ""
        parts.append(f"{len(numbers)} {kind} ({noun(len(numbers), unit)} {first}{more})")
    further = len(parts) - MOST_KINDS
    shown = ", ".join(parts[:MOST_KINDS])
    return f"{shown}, and {plural(further, 'more kind')}" if further > 0 else shown
