"""What two models answer to the same inputs, and how far they are apart: the proof of a merge.

Logits are compared at every position of synthetic inputs, and on the validation split at the
positions that the task reads; the task's own score is taken of both on the whole split.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from accelerate import Accelerator
from torch import Tensor, nn

from peftkit.adapters.probes import outputs_of
from peftkit.data.encoded import Examples, Head
from peftkit.evaluation.scoring import run_model
from peftkit.recipe import Recipe
from peftkit.reports.merge_report import Distance
from peftkit.training.forward.reading import Reader
from peftkit.training.progress import Pace, Say, silent

MOST_NUMBERS = 2**24
"""Logits of the validation split that are kept to be compared: 341 positions of a vocabulary of
49,152."""
CHUNK = 64
"""Positions that are compared at a time, in float64."""


@dataclass(frozen=True)
class Questions:
    """What both models are asked."""

    recipe: Recipe
    head: Head
    pad_token_id: int
    probes: tuple[tuple[int, ...], ...]
    """Synthetic token ids."""
    validation: Examples | None
    """None where the data is not at hand."""
    reason: str = ""
    """Why it is not."""


@dataclass(frozen=True)
class Answers:
    """What a model answers; logits are float32 on the CPU."""

    probes: Tensor
    """(positions, classes or vocabulary)."""
    validation: Tensor | None
    """(targets, evenly spread, classes or vocabulary)."""
    scores: dict[str, float]
    """Of the whole validation split."""


def ask(
    model: nn.Module, questions: Questions, accelerator: Accelerator, say: Say = silent
) -> Answers:
    """The answers of a model, which is in evaluation mode afterwards.

    Args:
        say: called with how far it is, where that takes long.

    Raises:
        TrainingError: it puts out NaN or infinity.
    """
    model.eval()
    with accelerator.autocast():
        probes = torch.cat([outputs_of(model, probe) for probe in questions.probes])
    if (examples := questions.validation) is None:
        return Answers(probes, None, {})
    recipe, task = questions.recipe, questions.recipe.task
    room = max(1, MOST_NUMBERS // probes.shape[-1])
    every = -(-examples.num_supervised // room)
    kept: list[Tensor] = []
    seen = 0

    def keep(outputs: Tensor, targets: Tensor) -> Tensor:
        nonlocal seen
        kept.append(outputs[-seen % every :: every].to("cpu", copy=True))  # no view of the rest
        seen += len(outputs)
        return task.keep(outputs, targets)

    outputs, loss = run_model(
        Reader(model, task.reads),
        examples,
        task,
        questions.pad_token_id,
        recipe.training.micro_batch_tokens,
        accelerator,
        keep,
        Pace(say, "validation", len(examples)).advance,
    )
    scores = task.metrics(outputs, examples, questions.head).metrics
    return Answers(probes, torch.cat(kept), {**scores, "loss": loss})


def compare(first: Answers, second: Answers) -> dict[str, Distance]:
    """The distances on `probes` and, if it was asked, on `validation`."""
    found = {"probes": distance(first.probes, second.probes)}
    if first.validation is not None and second.validation is not None:
        found["validation"] = distance(first.validation, second.validation)
    return found


def distance(first: Tensor, second: Tensor) -> Distance:
    """How far logits, (positions, classes), are from others; NaN where one of them is NaN."""
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
    """Over all inputs: the largest differences, the largest divergence, the least agreement."""
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
    """NaN counts as the largest."""
    return a if a > b or math.isnan(a) else b
