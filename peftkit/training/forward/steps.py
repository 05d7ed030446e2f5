"""Divides examples into optimizer steps; no other module does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from peftkit.data.encoded import Examples
from peftkit.recipe import Training


@dataclass(frozen=True)
class Step:
    """The examples of one optimizer step."""

    number: int
    """Number of the step, from 1, counted over all epochs."""
    epoch: int
    """Number of the epoch, from 1."""
    indices: tuple[int, ...]
    last_of_epoch: bool


def count_steps(num_examples: int, batch_size: int, num_epochs: int, max_steps: int | None) -> int:
    """Number of optimizer steps in a whole run; an epoch's last step may have fewer examples."""
    steps = num_epochs * -(-num_examples // batch_size)
    return min(steps, max_steps) if max_steps else steps


def number_of_steps(training: Training, num_examples: int) -> int:
    """Number of optimizer steps in a run on `num_examples` examples, unless it stops early."""
    return count_steps(num_examples, training.batch_size, training.num_epochs, training.max_steps)


def seeded_steps(num_examples: int, batch_size: int, num_steps: int, seed: int) -> Iterator[Step]:
    """Yields the steps of a run. Each epoch is shuffled with its own random generator, so that no
    other use of random numbers can change the order.
    """
    number = epoch = 0
    while True:
        epoch += 1
        order = np.random.default_rng([seed, epoch]).permutation(num_examples)
        for start in range(0, num_examples, batch_size):
            number += 1
            last = start + batch_size >= num_examples
            yield Step(number, epoch, tuple(order[start : start + batch_size].tolist()), last)
            if number == num_steps:
                return


def steps_of(examples: Examples, training: Training, num_steps: int, seed: int) -> Iterator[Step]:
    """Yields the steps of a run on these examples; examples of one unit are in the same step."""
    steps = seeded_steps(examples.num_units, training.batch_size, num_steps, seed)
    if examples.units is None:
        yield from steps
        return
    units = examples.by_unit(range(len(examples)))
    for step in steps:
        yield replace(step, indices=tuple(i for number in step.indices for i in units[number]))
