"""Notes on a recipe's number of steps and validations."""

from __future__ import annotations

from collections.abc import Iterator

from peftkit.recipe import Training
from peftkit.training.forward.steps import number_of_steps
from peftkit.wording import plural

FEW_STEPS = 30


def budget_notes(training: Training, num_examples: int) -> Iterator[str]:
    """Yields a note, with the fields to change, for each of three cases: few optimizer steps, fewer
    steps than `max_steps`, and a single validation.
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
    if training.max_steps and training.max_steps > steps:
        yield (
            f"training ends after {plural(steps, 'step')}, which are "
            f"{plural(training.num_epochs, 'epoch')}; `training.max_steps` is "
            f"{training.max_steps:,} and only limits; raise `training.num_epochs` to train longer"
        )
    every = training.evaluate_every or per_epoch
    if steps <= every and steps > 1:
        yield (
            "validation runs once, at the end, so no best weights are chosen and training cannot "
            f"stop early; set `training.evaluate_every` to {max(1, steps // 4)}"
        )
