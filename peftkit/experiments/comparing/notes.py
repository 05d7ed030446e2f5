"""Writes notes on a comparison: what failed, and what limits its results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from peftkit.experiments.comparing.comparison import Row
from peftkit.experiments.comparing.runs import Runs
from peftkit.experiments.comparing.table import LEAST_SEEDS
from peftkit.experiments.comparing.verdicts import estimate
from peftkit.metrics.metric import Metric
from peftkit.wording import plural

GOOD_SEEDS = 3


def has_learned(runs: Runs, metric: Metric, margin: float) -> bool:
    """Whether a contender's mean test score is better, by more than `margin`, than its score before
    training and the score of always guessing one label. Scores that are None are skipped.
    """
    known = [score for run in runs.seeds for score in (run.before, run.guessed)]
    trivial = max((metric.goodness(score) for score in known if score is not None), default=None)
    return (
        trivial is None or metric.goodness(estimate(runs.scores, metric).value) - trivial > margin
    )


def notes_of(num_seeds: int, rows: Sequence[Row], failures: Mapping[str, str]) -> tuple[str, ...]:
    """Notes on failed parts, missing seeds, and best rates at an end of the tried range.

    Args:
        num_seeds: number of seeds that each row should have.
        failures: name of a part -> why it failed.
    """
    notes = [f"{part} failed: {reason}" for part, reason in failures.items()]
    if num_seeds < LEAST_SEEDS:
        notes.append("one run of each is not enough for a verdict")
    elif num_seeds < GOOD_SEEDS:
        notes.append(
            "two runs of each say little about the spread between seeds: intervals are wide"
        )
    for row in rows:
        notes += _on_rates(row)
        if row.seeds and len(row.seeds) < num_seeds and row.role != "probe":
            notes.append(f"{row.name} has {len(row.seeds)} of {plural(num_seeds, 'run')}")
    return tuple(notes)


def _on_rates(row: Row) -> list[str]:
    notes = [
        f"{rate.learning_rate:g} is the best rate of {row.name} in its trials, but too high for "
        "all steps: the next lower one was used"
        for rate in row.rates
        if rate.too_high
    ]
    known = [rate.learning_rate for rate in row.rates]
    if len(known) > 1 and row.learning_rate in (min(known), max(known)):
        end = "smallest" if row.learning_rate == min(known) else "largest"
        notes.append(f"the best rate of {row.name} is the {end} that was tried")
    return notes
