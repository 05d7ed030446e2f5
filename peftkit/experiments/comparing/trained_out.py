"""Decides whether a method is trained out: whether it stopped improving before its last step.

If it did not, more steps may change the verdict on the method.
"""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.experiments.comparing.comparison import Row, SeedRun
from peftkit.wording import plural

NOT = "not trained out"


def is_trained_out(seeds: Sequence[SeedRun]) -> bool | None:
    """Whether fewer than half of the runs have their best validation score at the last step; None
    if there are no runs.
    """
    if not seeds:
        return None
    return 2 * sum(map(_is_rising, seeds)) < len(seeds)


def _is_rising(seed: SeedRun) -> bool:
    """Whether a run's last validation score is better than all earlier ones. A score equal to an
    earlier one is not better, even if its loss is lower.
    """
    values = [validation.value for validation in seed.validations]
    return bool(seed.best_step == seed.num_steps and values[-1] not in values[:-1])


def label(row: Row) -> str:
    """`not trained out` if the row was still improving at its last step; empty if it was not."""
    return NOT if row.trained_out is False else ""


def verdict(row: Row) -> str:
    """A row's verdict with its label, such as `worse, not trained out`."""
    return ", ".join(filter(None, (row.verdict, label(row))))


def sentence(names: Sequence[str], listed: str, num_steps: int) -> str:
    """A sentence on the rows that are not trained out: more steps may change their verdicts.

    Args:
        listed: `names` joined to a text, such as `a and b`.
    """
    verb, whose = ("is", "its") if len(names) == 1 else ("are", "their")
    last = f"the last of {plural(num_steps, 'step')}" if num_steps > 1 else "the only step"
    return (
        f"{listed} {verb} {NOT}: {whose} best validation score is that of {last}; more steps "
        "may change the verdict."
    )
