"""Orders examples into optimizer steps; nothing else does."""

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
    """From 1, over all epochs."""
    epoch: int
    """From 1."""
    indices: tuple[int, ...]
    last_of_epoch: bool


def count_steps(num_examples: int, batch_size: int, num_epochs: int, max_steps: int | None) -> int:
    """Optimizer steps of a whole run; the last one of an epoch may be smaller than the others."""
    steps = num_epochs * -(-num_examples // batch_size)
    return min(steps, max_steps) if max_steps else steps


def number_of_steps(training: Training, num_examples: int) -> int:
    """Optimizer steps of a run over so many examples, unless it stops early."""
    return count_steps(num_examples, training.batch_size, training.num_epochs, training.max_steps)


def seeded_steps(num_examples: int, batch_size: int, num_steps: int, seed: int) -> Iterator[Step]:
    """The steps of a run. Each epoch's order comes from its own generator, so that no other use of
    random numbers can change it.
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
    """The steps of a run over these examples; those of a unit are in one step."""
    steps = seeded_steps(examples.num_units, training.batch_size, num_steps, seed)
    if examples.units is None:
        yield from steps
        return
    units = examples.by_unit(range(len(examples)))
    for step in steps:
        yield replace(step, indices=tuple(i for number in step.indices for i in units[number]))
