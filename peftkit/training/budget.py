"""Notes on a recipe's number of steps and validations."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.recipe import Training
from peftkit.training.forward.steps import number_of_steps
from peftkit.wording import plural

FEW_STEPS = 30


def budget_notes(training: Training, num_examples: int) -> Iterator[str]:
    """Yields a note if a run has few optimizer steps, and one if it has a single validation. Each
    note names the field to change.
    """
    steps = number_of_steps(training, num_examples)
    per_epoch = -(-num_examples // training.batch_size)
    if steps < FEW_STEPS:
        change = "raise `training.num_epochs`, or lower `training.batch_size`"
        if training.max_steps == steps:
            change = "raise `training.max_steps`"
        yield (
            f"only {plural(steps, 'optimizer step')} ({num_examples:,} examples, "
            f"{training.batch_size} a step): few to learn from; {change}"
        )
    every = training.evaluate_every or per_epoch
    if steps <= every and steps > 1:
        yield (
            "validation runs once, at the end, so no best weights are chosen and training cannot "
            f"stop early; set `training.evaluate_every` to {max(1, steps // 4)}"
        )
