"""Notes on the texts of a data set, for any task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MANY_ADDRESSES = 0.1
"""No note is written if at most this share of the texts are web addresses."""
ENOUGH = 5
"""No note is written if at most this many texts are web addresses."""
ADDRESS = re.compile(r"(https?://|www\.)\S")


def address_remarks(texts: Sequence[str]) -> Iterator[str]:
    """Yields a note if many texts are nothing but web addresses."""
    addresses = sum(all(map(ADDRESS.match, text.split())) for text in texts)
    if addresses > max(ENOUGH, MANY_ADDRESSES * len(texts)):
        yield (
            f"{addresses / len(texts):.0%} of the training texts are web addresses only; a model "
            "does not read their pages"
        )
