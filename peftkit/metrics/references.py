"""References of written texts in the form that sacrebleu reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from peftkit.metrics.metric import Written


def streams(texts: Sequence[Written]) -> list[list[Any]]:
    """Returns the first references of all texts, then the second ones, and so on; None where a text
    has fewer.
    """
    most = max((len(text.references) for text in texts), default=1)
    return [
        [text.references[place] if place < len(text.references) else None for text in texts]
        for place in range(most)
    ]
