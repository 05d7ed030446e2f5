"""Notes on the texts of a data set, for any task."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

MANY_ADDRESSES = 0.1
"""No note is written if at most this share of the texts are web addresses."""
ENOUGH = 5
"""A note is written only if more than this number of texts are web addresses."""
LETTER = re.compile(r"[^\W\d_]")
ADDRESS = re.compile(r"(https?://|www\.)\S")


def text_remarks(texts: Sequence[str], column: str) -> Iterator[str]:
    """Yields notes if many texts are nothing but web addresses, or are numbers.

    Args:
        column: the column that the texts come from.
    """
    if texts and not any(map(LETTER.search, texts)):
        yield (
            f"no training text has a letter; is `{column}` (for example `{texts[0]:.40}`) the "
            "column with the texts?"
        )
    addresses = sum(all(map(ADDRESS.match, text.split())) for text in texts)
    if addresses > max(ENOUGH, MANY_ADDRESSES * len(texts)):
        yield (
            f"{addresses / len(texts):.0%} of the training texts are web addresses only; a model "
            "does not read their pages"
        )
