"""Gives reviews a constructed score, so that everybody sees what a regression can learn.

    score = 50 + 20 s + 5 (p - b) + q

s is 1 for a positive review and -1 for a negative one; p and b count the words of PRAISE and of
BLAME in it; q is the number of its words, at most 25. Nobody gave these scores.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, Final

from peftkit.data.rows import Table

PRAISE: Final = frozenset(
    [
        "best",
        "good",
        "great",
        "funny",
        "fun",
        "fresh",
        "charming",
        "moving",
        "beautiful",
        "beautifully",
        "brilliant",
        "clever",
        "smart",
        "warm",
        "sweet",
        "enjoyable",
        "entertaining",
        "engaging",
        "powerful",
        "delightful",
        "touching",
        "compelling",
        "rich",
        "fascinating",
        "wonderful",
        "hilarious",
        "heart",
        "gem",
        "masterpiece",
        "love",
        "loved",
    ]
)
BLAME: Final = frozenset(
    [
        "bad",
        "worst",
        "worse",
        "dull",
        "boring",
        "bland",
        "flat",
        "stupid",
        "silly",
        "mess",
        "lame",
        "lacks",
        "lacking",
        "tired",
        "predictable",
        "tedious",
        "awful",
        "annoying",
        "pointless",
        "unfunny",
        "shallow",
        "thin",
        "slow",
        "forced",
        "painful",
        "failure",
        "fails",
        "disappointing",
        "waste",
        "nothing",
        "neither",
    ]
)
LONGEST: Final = 25
"""Number of words from which longer reviews get no more points."""
COLUMNS: Final = ("text", "score")
NOTE: Final = (
    "the scores are constructed from words and labels by a rule (peftkit/data/review_scores.py), "
    "for trying a regression; nobody gave them"
)


def review_scores(table: Table) -> Table:
    """Returns a table of texts with their constructed scores.

    Args:
        table: rows with `text`, and `label` 1 or 0.
    """
    return replace(
        table,
        columns=COLUMNS,
        rows=tuple((number, _scored(values)) for number, values in table.rows),
        label_names=None,
        notes=(NOTE,),
    )


def _scored(values: Mapping[str, Any]) -> dict[str, object]:
    text = str(values["text"])
    return {"text": text, "score": score_of(text, str(values["label"]) == "1")}


def score_of(text: str, positive: bool) -> int:
    """Returns the score of a review."""
    words = re.findall(r"[^\W_]+", text.casefold())
    told = _count(words, PRAISE) - _count(words, BLAME)
    return 50 + (20 if positive else -20) + 5 * told + min(len(words), LONGEST)


def _count(words: Iterable[str], listed: frozenset[str]) -> int:
    return sum(word in listed for word in words)
