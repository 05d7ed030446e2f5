"""Shows which tokens of an example are learned, for tasks on causal language models."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from peftkit.data.encoded import Examples
from peftkit.tasks.task import Piece


def learned_pieces(example: int, examples: Examples, tokenizer: Any) -> tuple[Piece, ...]:
    """Returns the text of an example in pieces, each learned or not."""
    ids = examples.input_ids[example]
    learned_at = set() if examples.read_at is None else set(examples.read_at[example].flat)
    supervised = [place - 1 in learned_at for place in range(len(ids))]
    return tuple(
        Piece(tokenizer.decode([token for token, _ in run], skip_special_tokens=False), learned)
        for learned, run in groupby(zip(ids.tolist(), supervised, strict=True), lambda t: t[1])
    )
