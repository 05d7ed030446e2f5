"""Cuts the examples of a step or a split into micro-batches; no other module cuts them.

Examples are sorted by length. Since the loss is a sum divided by the whole step's count, the cuts
change speed and memory but no result. Examples of one unit, such as an answer pair, stay together.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from accelerate import Accelerator

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array
from peftkit.errors import DataError
from peftkit.methods.method import Layout
from peftkit.recipe import Recipe
from peftkit.training.forward.steps import Step, number_of_steps, steps_of

CPU_OVERHEAD = 64
"""Cost of an additional forward and backward pass on a CPU, in tokens. With an overhead of 32, 64,
128, 256 or 512 tokens, a step of 32 short reviews on MiniLM takes 0.90, 0.88, 0.90, 0.98 or 1.29
CPU-seconds; as one batch it takes 1.35, with a review per batch 1.88 (docs/log.md, 2026-11-23)."""
CPU_ROW = {"packed": (512, 1024), "shared": (768, 1024)}
"""Layout -> smallest and largest token limit of a packed row on a CPU. In longer rows, matrix
products are no faster and memory grows. Small models gain from long rows; deep models gain only if
the row's examples share a beginning (docs/log.md, 2026-11-24 and 2026-11-26)."""
SHARED_SAVING = 0.75
"""Share of a common-prefix token's cost that is saved in every example but the first. The rest is
the cost of attention and of the tensors that it stores for the backward pass."""
CPU_ROW_NUMBERS = 2**23
"""Maximum product of tokens, hidden size and blocks for a packed row on a CPU."""
SEARCHED = 200
"""Maximum number of a run's steps that are searched for the largest micro-batch."""
ACCELERATOR_OVERHEAD = 4096
"""Cost of an additional forward and backward pass on an accelerator, in tokens; an estimate, not
measured. It is high because an accelerator computes padding faster than it starts a pass."""


def cut_step(
    examples: Examples,
    indices: Sequence[int],
    micro_batch_tokens: int,
    overhead: int,
    num_processes: int,
) -> list[list[tuple[int, ...]]]:
    """Cuts a step into micro-batches; returns `[process][micro-batch]` -> indices of examples.

    Examples are sorted by length and cut so that padding plus the overhead of the passes is least.
    All processes get the same number of micro-batches; if examples are too few, some are empty.

    Args:
        micro_batch_tokens: maximum number of tokens in a micro-batch, padding included; only a
            single example can be longer.
        overhead: cost of an additional micro-batch, in tokens.
    """
    units = sorted(examples.by_unit(indices), key=lambda unit: (_longest(examples, unit), unit))
    longest = [examples.streams[list(unit)].max(axis=0).tolist() for unit in units]
    sizes = [len(unit) for unit in units]
    cuts = cheapest_cuts(longest, micro_batch_tokens, overhead, sizes)
    parts = [units[start:end] for start, end in cuts]
    while len(parts) % num_processes and max(map(len, parts)) > 1:
        widest = max(range(len(parts)), key=lambda i: len(parts[i]))
        half = len(parts[widest]) // 2
        parts[widest : widest + 1] = [parts[widest][:half], parts[widest][half:]]
    parts += [[] for _ in range(-len(parts) % num_processes)]
    whole = [tuple(itertools.chain.from_iterable(part)) for part in parts]
    return [whole[process::num_processes] for process in range(num_processes)]


def _longest(examples: Examples, indices: Iterable[int]) -> int:
    """Number of tokens in the longest of these examples."""
    return max((examples.cost(index) for index in indices), default=0)


def _width(examples: Examples, indices: Sequence[int]) -> int:
    """Number of tokens that each of these examples takes after padding, over all streams."""
    return int(examples.streams[list(indices)].max(axis=0).sum()) if indices else 0


def cheapest_cuts(
    lengths: Sequence[list[int]],
    micro_batch_tokens: int,
    overhead: int,
    sizes: Sequence[int] | None = None,
) -> list[tuple[int, int]]:
    """Cuts a list of entries so that padded tokens plus overhead are least; returns (start, end) of
    each piece. The order of the entries does not change.

    cost[end] = min over start of cost[start] + count(start, end) * width(start, end) + overhead
    width: the sum over streams of the longest length in the stream

    Args:
        lengths: for each entry, its length in each stream; ascending lengths cost least.
        sizes: number of examples in each entry; 1 if not given.
    """
    before = [0, *itertools.accumulate(sizes or [1] * len(lengths))]
    cost = [0.0] + [float("inf")] * len(lengths)
    cut_at = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        widest, width = lengths[end - 1], max(sum(lengths[end - 1]), 1)
        for start in range(end - 1, -1, -1):
            if (streams := lengths[start]) > widest or len(streams) > 1:
                widest = [max(pair) for pair in zip(widest, streams, strict=True)]
                width = max(sum(widest), 1)
            padded = (before[end] - before[start]) * width
            if padded > micro_batch_tokens and start < end - 1:
                break  # a single example may be longer than the budget
            total = cost[start] + padded + overhead
            if total < cost[end]:
                cost[end], cut_at[end] = total, start
    cuts: list[tuple[int, int]] = []
    end = len(lengths)
    while end > 0:
        cuts.append((cut_at[end], end))
        end = cut_at[end]
    return cuts[::-1]


def inference_batches(
    examples: Examples, micro_batch_tokens: int, layout: Layout = "padded"
) -> Iterator[tuple[int, ...]]:
    """Yields all examples in batches of similar lengths within the token budget. The longest come
    first, so that a lack of memory shows at once.
    """
    saved = _saved_tokens(examples, range(len(examples)), layout)
    nothing = 0, np.zeros(examples.streams.shape[1], np.int64)
    batch: list[int] = []
    tokens, widest = nothing  # tokens of the batch; longest length in each stream

    def grown(tokens: int, widest: Array, unit: Sequence[int]) -> tuple[int, Array]:
        streams = examples.streams[list(unit)]
        more = int(np.maximum(streams.sum(axis=1), 1).sum())
        return tokens + more, np.maximum(widest, streams.max(axis=0))

    for unit in longest_first(examples):
        number = len(batch) + len(unit)
        more, wider = grown(tokens, widest, unit)
        cost = number * max(int(wider.sum()), 1)
        if layout != "padded":
            cost = more - saved * (number - 1)
        if batch and cost > micro_batch_tokens:
            yield tuple(batch)
            batch = []
            more, wider = grown(*nothing, unit)
        batch += unit
        tokens, widest = more, wider
    if batch:
        yield tuple(batch)


def longest_first(examples: Examples) -> list[tuple[int, ...]]:
    """Returns the units of the examples, sorted by their longest example, the longest first."""
    return sorted(
        examples.by_unit(range(len(examples))), key=lambda unit: -_longest(examples, unit)
    )


def check_units(examples: Examples, micro_batch_tokens: int) -> None:
    """Raises DataError if a unit of several examples does not fit into one micro-batch."""
    if examples.units is None:
        return
    worst = max(
        examples.by_unit(range(len(examples))),
        key=lambda unit: len(unit) * _width(examples, unit) * (len(unit) > 1),
    )
    tokens = len(worst) * _width(examples, worst)
    if len(worst) > 1 and tokens > micro_batch_tokens:
        raise DataError(
            f"the {len(worst)} texts of row {examples.row(worst[0]).number} are compared with each "
            f"other and take {tokens:,} tokens together; `training.micro_batch_tokens` is "
            f"{micro_batch_tokens:,}",
            "raise `training.micro_batch_tokens`, or lower the task's `max_length`",
        )


def row_tokens(micro_batch_tokens: int, layout: Layout, on_cpu: bool, config: Any) -> int:
    """Returns the maximum number of tokens in a micro-batch: the recipe's number, or less for a
    packed row on a CPU, where longer rows are no faster.

    Args:
        config: the model's configuration, from transformers.
    """
    if layout == "padded" or not on_cpu:
        return micro_batch_tokens
    text = config.get_text_config()
    numbers = int(text.hidden_size) * int(text.num_hidden_layers)
    least, most = CPU_ROW[layout]
    return min(micro_batch_tokens, max(least, min(most, CPU_ROW_NUMBERS // numbers)))


def pack_step(
    examples: Examples,
    indices: Sequence[int],
    micro_batch_tokens: int,
    num_processes: int,
    layout: Layout = "packed",
) -> list[list[tuple[int, ...]]]:
    """Cuts a step into micro-batches for a packed layout; returns them as `cut_step` does. They are
    as few as the token budget allows, and about equally long. A shared beginning counts for at most
    half of the budget.
    """
    saved = _saved_tokens(examples, indices, layout)
    micro_batch_tokens = max(micro_batch_tokens - saved, micro_batch_tokens // 2)
    units = examples.by_unit(indices)
    lengths = {unit: sum(examples.cost(index) - saved for index in unit) for unit in units}
    by_length = sorted(units, key=lambda unit: (-lengths[unit], unit))
    number = min(max(1, -(-sum(lengths.values()) // micro_batch_tokens)), len(units))
    while True:
        number += -number % num_processes
        parts: list[list[tuple[int, ...]]] = [[] for _ in range(number)]
        loads = [0] * number
        for unit in by_length:
            least = loads.index(min(loads))
            parts[least].append(unit)
            loads[least] += lengths[unit]
        over = [p for p, load in zip(parts, loads, strict=True) if load > micro_batch_tokens]
        if all(len(part) == 1 for part in over):
            break
        number += 1
    whole = [
        tuple(itertools.chain.from_iterable(part)) for part in parts
    ]  # longest first: documents of one length are neighbours
    return [whole[process::num_processes] for process in range(num_processes)]


@dataclass(frozen=True)
class Worst:
    """A run's micro-batch with the most tokens."""

    indices: tuple[int, ...]
    alone: bool
    """Whether each searched step has a single micro-batch, which runs before gradients exist."""
    saved_share: float
    """Share of the searched steps' tokens whose cost is saved because examples share tokens."""


def worst_micro_batch(
    examples: Examples, recipe: Recipe, layout: Layout, accelerator: Accelerator, config: Any
) -> Worst:
    """Finds the largest micro-batch of a run's first `SEARCHED` steps. If the run has more steps,
    a step made of the longest examples is searched in their place.
    """
    training = recipe.training
    num_steps = number_of_steps(training, examples.num_units)
    searched = min(SEARCHED, num_steps)
    steps = list(steps_of(examples, training, searched, recipe.seed))
    if searched < num_steps:
        longest = itertools.chain.from_iterable(longest_first(examples)[: training.batch_size])
        steps.append(Step(0, 0, tuple(longest), last_of_epoch=False))
    budget = training.micro_batch_tokens
    cuts = [micro_batches(examples, s, budget, layout, accelerator, config) for s in steps]
    every = [indices for cut in cuts for indices in cut]
    costs = [padded_tokens(examples, indices, layout) for indices in every]
    saved = 0.0
    if layout == "shared":
        saved = 1 - sum(costs) / sum(examples.tokens_of(indices) for indices in every)
    worst = every[costs.index(max(costs))]
    return Worst(worst, alone=all(len(cut) == 1 for cut in cuts), saved_share=saved)


def padded_tokens(examples: Examples, indices: Sequence[int], layout: Layout) -> int:
    """Cost of a micro-batch in tokens: padding is counted, savings from sharing are subtracted."""
    if layout != "padded":
        saved = _saved_tokens(examples, indices, layout) * max(0, len(indices) - 1)
        return examples.tokens_of(indices) - saved
    return _width(examples, indices) * len(indices)


def _saved_tokens(examples: Examples, indices: Sequence[int], layout: Layout) -> int:
    """Number of tokens saved in each example but the first if examples share first tokens."""
    return int(SHARED_SAVING * examples.shared_tokens(indices)) if layout == "shared" else 0


def micro_batches(
    examples: Examples,
    step: Step,
    micro_batch_tokens: int,
    layout: Layout,
    accelerator: Accelerator,
    config: Any,
) -> list[tuple[int, ...]]:
    """Returns this process's micro-batches of a step, each as indices of examples."""
    on_cpu = accelerator.device.type == "cpu"
    saved = _saved_tokens(examples, step.indices, layout)
    if layout == "shared" and not saved:
        layout = "packed"
    tokens = row_tokens(micro_batch_tokens, layout, on_cpu, config)
    tokens = min(tokens + saved, micro_batch_tokens)
    processes = accelerator.num_processes
    if layout != "padded":
        plan = pack_step(examples, step.indices, tokens, processes, layout)
    else:
        overhead = CPU_OVERHEAD if on_cpu else ACCELERATOR_OVERHEAD
        plan = cut_step(examples, step.indices, tokens, overhead, processes)
    return plan[accelerator.process_index]
