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
    """Problem -> numbers of the rows that have it."""
    duplicate: int = 0
    """Number of rows left out because they repeat another row."""
    conflicting: int = 0
    """Number of rows with the same input but different answers; all of them are left out."""
    not_drawn: int = 0
    """Number of rows left out because of `max_rows`."""
    num_lines: int = 0
    """Number of lines in a delimited file, with header and blank lines; 0 for other sources."""
    continued: list[int] = field(default_factory=list)
    """Numbers of the lines that continue a quoted field of the row above."""


@dataclass(frozen=True)
class SplitCounts:
    """Counts of one split: its rows and, after encoding, its tokens."""

    rows: int
    leaked: int = 0
    """Number of rows removed because the test or validation split has their input or group."""
    strata: dict[str, int] = field(default_factory=dict)
    """Stratum, such as a label -> number of rows, or of what `Ledger.counted` names."""
    truncated: int = 0
    unsupervised: int = 0
    """Number of rows left out because none of their outputs counts in the loss."""
    too_long: int = 0
    """Number of rows left out because they were longer than `max_length`."""
    tokens: int = 0
    supervised: int = 0
    """Number of targets that count in the loss."""
    unknown: int = 0
    """Number of tokens that are the tokenizer's unknown token."""
    padding: float | None = None
    """Share of padding in the model's inputs during training; None until training ends."""


@dataclass(frozen=True)
class Ledger:
    """Counts of rows and tokens, printed before training and saved in run.json."""

    read: tuple[ReadCounts, ...]
    splits: dict[str, SplitCounts]
    notes: tuple[str, ...] = ()
    stratum: str = ""
    """The column whose values `strata` counts: the label, for a classifier."""
    counted: str = "rows"
    """What `strata` counts, in the plural: `rows`, or parts of rows such as `entities`."""

    @property
    def strata_title(self) -> str:
        """The title of the table of `strata`: the column, and what is counted if not rows."""
        column = self.stratum or "label"
        return column if self.counted == "rows" else f"{self.counted} in {column}"

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
        """Returns a copy with the share of padding in the inputs of training."""
        train = replace(self.splits["train"], padding=padding)
        return replace(self, splits={**self.splits, "train": train})

    def to_json(self) -> dict[str, Any]:
        """Returns the ledger in the form for run.json."""
        return asdict(self)


def by_kind(malformed: list[Malformed]) -> dict[str, list[int]]:
    """Groups the numbers of malformed rows by kind, the most frequent kind first."""
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
