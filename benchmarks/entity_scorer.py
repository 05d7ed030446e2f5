"""Compares peftkit's entity scores with nervaluate's on all splits of a folder of CoNLL files.

    python benchmarks/entity_scorer.py wnut17

The predictions are the expected tags with one in eight replaced by another tag.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

from nervaluate.evaluator import Evaluator

from peftkit import TaggedWords
from peftkit.data.reading import read_source
from peftkit.metrics.entities import OUTSIDE, entities, split_tag
from peftkit.metrics.entity_schemes import SCHEMES, scheme_counts

SHARE = 0.125
"""Share of the tags that are replaced."""
THEIRS = {"type": "ent_type"}
"""Our name of a scheme -> nervaluate's, where they differ."""


def main(folder: str) -> None:
    """Prints the counts of each split in each scheme; exits with 1 if one differs."""
    equal = True
    for split, table in read_source(TaggedWords(path=folder)).items():
        expected = [values["labels"] for _, values in table.rows]
        tags = sorted({tag for row in expected for tag in row})
        rng = random.Random(0)
        predicted = [
            [rng.choice(tags) if rng.random() < SHARE else tag for tag in row] for row in expected
        ]
        types = sorted({split_tag(tag)[1] for tag in tags if tag != OUTSIDE})
        theirs = Evaluator(expected, predicted, tags=types, loader="list").evaluate()["overall"]
        pairs = [(entities(a), entities(b)) for a, b in zip(expected, predicted, strict=True)]
        for scheme in SCHEMES:
            ours, other = scheme_counts(scheme, pairs), theirs[THEIRS.get(scheme, scheme)]
            wrong = other.partial if scheme == "partial" else other.incorrect
            counts = (ours.correct, ours.incorrect, ours.missed, ours.spurious)
            same = counts == (other.correct, wrong, other.missed, other.spurious)
            same &= abs(ours.scores[2] - other.f1) < 1e-12
            equal &= same
            judged = "equal" if same else f"nervaluate: {other}"
            f1 = f"{scheme:8}F1 {ours.scores[2]:.4f}"
            print(f"{split:12}{len(pairs):6,} sentences  {f1}  {counts}  {judged}")
    sys.exit(not equal)


if __name__ == "__main__":
    main(str(Path(sys.argv[1])))
