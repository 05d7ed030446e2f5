"""Scored text pairs that a tiny model can learn: a candidate with more good words is better."""

from __future__ import annotations

import random
from pathlib import Path

from tests.conftest import FILLER, GOOD, write_csv

COLUMNS = ("qid", "text", "text_pair", "score")


def candidates(groups: int, size: int = 4, seed: int = 0) -> list[list[str]]:
    """Groups of candidates with the scores 0, 1 and 2: how often a good word is in the text."""
    rng = random.Random(seed)
    rows = []
    for group in range(groups):
        query = " ".join([f"word{group % 20}", *rng.choices(FILLER, k=4)])
        for number in range(size):
            words = [*rng.choices(FILLER, k=4), *rng.choices(GOOD, k=number % 3)]
            rng.shuffle(words)
            rows.append([f"q{group}", query, " ".join(words), str(number % 3)])
    return rows


def write_pairs(path: Path, rows: list[list[str]]) -> Path:
    return write_csv(path, rows, COLUMNS)
