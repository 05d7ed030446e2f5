"""Compares two models' logits on the same inputs, to prove a merge.

Logits are compared at every position of synthetic inputs and, on the validation split, at the
positions that the task reads. Both models are also scored on the whole validation split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peftkit.adapters.probes import outputs_of
from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.evaluation.scoring import run_model
from peftkit.recipe import Recipe
from peftkit.reports.merge_report import Distance
from peftkit.tasks.answers import Decision
from peftkit.training.forward.engine import Engine
from peftkit.training.progress import Pace, Say, silent

MAX_LOGITS = 2**24
"""Largest number of validation logits that are compared: 341 positions if the vocabulary has 49,152
tokens."""
CHUNK = 64
"""Number of positions that are compared at a time, in float64."""


@dataclass(frozen=True)
class MergeInputs:
    """The inputs on which two models are compared."""

    recipe: Recipe
    head: Head
    pad_token_id: int
    probes: tuple[tuple[int, ...], ...]
    """Token ids of each synthetic input."""
    validation: Examples | None
    """The validation split; None if the data cannot be read."""
    reason: str = ""
    """Why the data cannot be read; empty if it can."""
    decision: Decision = field(default_factory=Decision)
    """The task's decision on the validation split, from the adapter's record."""


@dataclass(frozen=True)
class MergeOutputs:
    """A model's logits and scores on `MergeInputs`; logits are float32 on the CPU."""

    probes: Tensor
    """Logits on the probes, (positions, classes or vocabulary)."""
    validation: Tensor | None
    """Logits at evenly spaced targets of the validation split, (targets, classes or vocabulary)."""
    scores: dict[str, float]
    """Scores on the whole validation split."""


def compute_outputs(
    model: nn.Module, inputs: MergeInputs, accelerator: Accelerator, say: Say = silent
) -> MergeOutputs:
    """Computes a model's outputs; leaves the model in evaluation mode.

    Args:
        say: called with progress messages if the computation takes long.

    Raises:
        TrainingError: the outputs hold NaN or infinity.
    """
    model.eval()
    with accelerator.autocast():
        probes = torch.cat([outputs_of(model, probe) for probe in inputs.probes])
    if (examples := inputs.validation) is None:
        return MergeOutputs(probes, None, {})
    recipe, task = inputs.recipe, inputs.recipe.task
    room = max(1, MAX_LOGITS // probes.shape[-1])
    every = -(-examples.num_supervised // room)
    kept: list[Tensor] = []
    seen = 0

    def keep(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal seen
        kept.append(
            outputs[-seen % every :: every].to("cpu", copy=True)
        )  # a view would keep all logits in memory
        seen += len(outputs)
        return task.reduce_outputs(outputs, targets)

    engine = Engine.of(
        model,
        inputs.head,
        task.loss(),
        inputs.pad_token_id,
        recipe.training.micro_batch_tokens,
        accelerator,
    )
    outputs, loss = run_model(
        engine, examples, keep, Pace(say, "validation", len(examples)).advance
    )
    scores = task.metrics(outputs, examples, inputs.head, inputs.decision).metrics
    return MergeOutputs(probes, torch.cat(kept), {**scores, **loss})


def compare(first: MergeOutputs, second: MergeOutputs) -> dict[str, Distance]:
    """The distance between two models' logits on `probes`, and on `validation` if it was read."""
    distances = {"probes": distance(first.probes, second.probes)}
    if first.validation is not None and second.validation is not None:
        distances["validation"] = distance(first.validation, second.validation)
    return distances


def distance(first: Tensor, second: Tensor) -> Distance:
    """The distance between two models' logits, each (positions, classes); NaN if a logit is NaN."""
    difference = kl = same = 0.0
    for start in range(0, len(first), CHUNK):
        a, b = (logits[start : start + CHUNK].double() for logits in (first, second))
        difference = _larger(difference, float((a - b).abs().max()))
        logs = a.log_softmax(-1), b.log_softmax(-1)
        kl += float((logs[0].exp() * (logs[0] - logs[1])).sum())
        same += int((a.argmax(-1) == b.argmax(-1)).sum())
    scale = max(1.0, float(first.abs().max()))
    count = len(first)
    return Distance(count, difference, difference / scale, max(0.0, kl / count), same / count)


def worst(distances: Iterable[Distance]) -> Distance:
    """Returns a distance with the worst value of each measure and the total number of positions."""
    result, *others = distances
    for other in others:
        result = Distance(
            result.positions + other.positions,
            _larger(result.max_abs_dlogit, other.max_abs_dlogit),
            _larger(result.relative, other.relative),
            _larger(result.kl, other.kl),
            min(result.top1_agreement, other.top1_agreement),
        )
    return result


def _larger(a: float, b: float) -> float:
    """The larger of two numbers; NaN counts as largest."""
    return a if a > b or math.isnan(a) else b
