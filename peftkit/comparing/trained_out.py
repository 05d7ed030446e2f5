"""Whether a method was still getting better when its steps were over.

A verdict on such a method is one on the budget: with more steps it may be another.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from peftkit.wording import plural

NOT = "not trained out"


def is_trained_out(seeds: Sequence[Mapping[str, Any]]) -> bool | None:
    """False if the best validation score of half of the runs or more is that of the last step; None
    without runs.
    """
    if not seeds:
        return None
    at_the_end = sum(seed["best_step"] == seed["num_steps"] for seed in seeds)
    return bool(2 * at_the_end < len(seeds))


def told(row: Mapping[str, Any]) -> str:
    """`not trained out` where a row of compare.json is not; empty where it is, or is not known."""
    return NOT if row.get("trained_out") is False else ""


def verdict(row: Mapping[str, Any]) -> str:
    """A row's verdict, and that it is not trained out where it is not: `worse, not trained out`."""
    return ", ".join(filter(None, (row["verdict"], told(row))))


def sentence(names: Sequence[str], listed: str, num_steps: int) -> str:
    """What it means that these rows are not trained out.

    Args:
        listed: the names as text.
    """
    verb, whose = ("is", "its") if len(names) == 1 else ("are", "their")
    last = f"the last of {plural(num_steps, 'step')}" if num_steps > 1 else "the only step"
    return (
        f"{listed} {verb} {NOT}: {whose} best validation score is that of {last}, so that with "
        "more steps verdicts may be others."
    )
