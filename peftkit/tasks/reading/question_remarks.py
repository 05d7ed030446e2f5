"""Notes on questions: those without an answer, and articles that are in several splits."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

from peftkit.data.row_contract import Splits
from peftkit.data.squad import TITLE
from peftkit.wording import has, plural

FEWEST_ARTICLES = 3
"""Fewest articles of which each could be kept in one split."""


def question_remarks(splits: Splits, has_unanswerable: bool | None) -> Iterator[str]:
    """Yields notes about the questions of all splits.

    Args:
        has_unanswerable: what the recipe says about them; None if it says nothing.
    """
    without = {
        name: sum(not row.values["answers"] for row in rows)
        for name, rows in splits.named().items()
    }
    total = len(splits.train)
    if without["train"] and has_unanswerable is False:
        yield (
            f"{without['train']:,} of {total:,} training questions have no answer in their "
            "context, but `task.has_unanswerable` is false: the model gives an answer to each; "
            "leave the field out to choose the score above which an answer is given"
        )
    elif without["train"]:
        yield (
            f"{without['train']:,} of {total:,} training questions have no answer in their "
            "context: the model learns to give none"
        )
        if not without["validation"]:
            yield (
                "no validation question is without an answer, so the score above which an answer "
                "is given cannot be chosen well"
            )
    elif others := without["validation"] + without["test"]:
        yield (
            f"{plural(others, 'question')} of validation and test {has(others)} no answer, but all "
            "training questions have one: the model gives an answer to each"
        )
    yield from _divided_articles(splits)


def _divided_articles(splits: Splits) -> Iterator[str]:
    """Yields a note if articles with several contexts are in more than one split."""
    found: dict[str, set[str]] = defaultdict(set)
    for name, rows in splits.named().items():
        for row in rows:
            if title := row.values.get(TITLE):
                found[title].add(name)
    divided = sum(len(names) > 1 for names in found.values())
    if divided and len(found) >= FEWEST_ARTICLES:
        yield (
            f"the contexts of {divided:,} of {plural(len(found), 'article')} are in several "
            f"splits; `--task.data.group {TITLE}` keeps each article in one"
        )
