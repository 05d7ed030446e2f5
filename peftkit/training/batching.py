"""Batches: the only place where examples are ordered, padded and cut.

The seeded order decides which examples make an optimizer step. Inside a step they are sorted by
length and cut into micro-batches; since the loss is a sum divided by the whole step's count, the
cutting changes speed and memory but no result.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from peftkit.data.encoded import IGNORE_INDEX, Examples
from peftkit.tasks.task import Reads

CPU_OVERHEAD = 64
"""What a further forward and backward pass costs on a CPU, in tokens. A step of 32 short reviews
on MiniLM takes 0.90, 0.88, 0.90, 0.98 and 1.29 CPU-seconds when cut for an overhead of 32, 64,
128, 256 and 512 tokens, 1.35 in one piece, 1.88 one by one (docs/log.md, 2026-11-23)."""
ACCELERATOR_OVERHEAD = 4096
"""The same where launching a pass costs more than its padding; an estimate, not measured yet."""


@dataclass(frozen=True)
class Batch:
    """Examples padded to one width."""

    input_ids: Tensor
    """(rows, width) int64."""
    attention_mask: Tensor
    """(rows, width) int64, 1 where there is a token."""
    targets: Tensor
    """(targets,) int64, in the order in which `forward` gives the outputs."""
    weights: Tensor
    """(targets,) float32."""
    token_type_ids: Tensor | None
    """(rows, width) int64, for pairs of texts."""
    read_at: Tensor | None
    """(rows, width) bool, the positions that are read; None where each row has one output."""

    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of the model's forward pass."""
        inputs = {"input_ids": self.input_ids, "attention_mask": self.attention_mask}
        if self.token_type_ids is not None:
            inputs["token_type_ids"] = self.token_type_ids
        return inputs


def forward(model: nn.Module, batch: Batch) -> Tensor:
    """The outputs that are read, (targets, classes or vocabulary), in the order of the targets."""
    logits: Tensor = model(**batch.inputs()).logits
    if batch.read_at is None:
        return logits
    width = batch.read_at.shape[1]  # virtual tokens of prompt methods stand before the text
    return logits[:, -width:][batch.read_at]


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


def seeded_steps(num_examples: int, batch_size: int, num_steps: int, seed: int) -> Iterator[Step]:
    """The steps of a run. The order comes from a generator of its own, one for each epoch, so
    that no other use of random numbers can change it.
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


def cut_step(
    examples: Examples,
    indices: Sequence[int],
    micro_batch_tokens: int,
    overhead: int,
    num_processes: int,
) -> list[list[tuple[int, ...]]]:
    """Micro-batches of each process: `[process][micro-batch] -> indices`, as many for each.

    Sorted by length and cut where padding plus the overhead of a further pass is least. An
    empty micro-batch stands in where there are too few examples for all processes.

    Args:
        micro_batch_tokens: most tokens, padding included, of one micro-batch; a single example
            may be longer.
        overhead: cost of a further micro-batch, in tokens.
    """
    by_length = sorted(indices, key=lambda index: (len(examples.input_ids[index]), index))
    lengths = [len(examples.input_ids[index]) for index in by_length]
    cuts = _cheapest_cuts(lengths, micro_batch_tokens, overhead)
    parts = [tuple(by_length[start:end]) for start, end in cuts]
    while len(parts) % num_processes and max(map(len, parts)) > 1:
        widest = max(range(len(parts)), key=lambda i: len(parts[i]))
        half = len(parts[widest]) // 2
        parts[widest : widest + 1] = [parts[widest][:half], parts[widest][half:]]
    parts += [()] * (-len(parts) % num_processes)
    return [parts[process::num_processes] for process in range(num_processes)]


def _cheapest_cuts(
    lengths: Sequence[int], micro_batch_tokens: int, overhead: int
) -> list[tuple[int, int]]:
    """(start, end) of the cheapest cut of ascending lengths; cost is padded tokens plus overhead.

    cost[end] = min over start of cost[start] + (end - start) * lengths[end - 1] + overhead
    """
    cost = [0.0] + [float("inf")] * len(lengths)
    cut_at = [0] * (len(lengths) + 1)
    for end in range(1, len(lengths) + 1):
        width = max(lengths[end - 1], 1)
        for start in range(end - 1, -1, -1):
            if (end - start) * width > micro_batch_tokens and start < end - 1:
                break  # a single example may be longer than the budget
            total = cost[start] + (end - start) * width + overhead
            if total < cost[end]:
                cost[end], cut_at[end] = total, start
    cuts: list[tuple[int, int]] = []
    end = len(lengths)
    while end > 0:
        cuts.append((cut_at[end], end))
        end = cut_at[end]
    return cuts[::-1]


def inference_batches(examples: Examples, micro_batch_tokens: int) -> Iterator[tuple[int, ...]]:
    """All examples, in batches of similar lengths under the token budget; longest first, so that
    running out of memory comes at once.
    """
    order = sorted(range(len(examples)), key=lambda index: -len(examples.input_ids[index]))
    start = 0
    while start < len(order):
        width = max(len(examples.input_ids[order[start]]), 1)
        end = start + max(1, micro_batch_tokens // width)
        yield tuple(order[start:end])
        start = end


def collate(examples: Examples, indices: Sequence[int], reads: Reads, pad_token_id: int) -> Batch:
    """Examples padded on the right to the longest of them.

    Without indices: the first example with weight 0, for a process that has none in this step.
    """
    weightless = not indices
    chosen = list(indices) or [0]
    ids = [torch.from_numpy(examples.input_ids[index]) for index in chosen]
    targets = [torch.from_numpy(examples.targets[index]) for index in chosen]
    if examples.weights is None:
        weights = [torch.ones(len(target)) for target in targets]
    else:
        weights = [torch.from_numpy(examples.weights[index]) for index in chosen]
    segments = None
    if examples.segment_ids is not None:
        segments = _padded([torch.from_numpy(examples.segment_ids[i]) for i in chosen], 0)
    read_at = None
    if reads in ("labelled", "all"):
        read_at = _padded(targets, IGNORE_INDEX) != IGNORE_INDEX
        weights = [w[t != IGNORE_INDEX] for w, t in zip(weights, targets, strict=True)]
        targets = [target[target != IGNORE_INDEX] for target in targets]
    return Batch(
        input_ids=_padded(ids, pad_token_id),
        attention_mask=_padded([torch.ones_like(row) for row in ids], 0),
        targets=torch.cat(targets),
        weights=torch.cat(weights) * (0.0 if weightless else 1.0),
        token_type_ids=segments,
        read_at=read_at,
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all tensors on a device."""
    moved = {
        name: value.to(device, non_blocking=True) if isinstance(value, Tensor) else value
        for name, value in vars(batch).items()
    }
    return Batch(**moved)


def _padded(rows: list[Tensor], value: int) -> Tensor:
    return torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=value)
