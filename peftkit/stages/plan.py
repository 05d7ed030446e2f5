"""Estimates a run's memory and time before its weights are loaded."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import psutil
import torch
from accelerate import Accelerator

from peftkit.bases.devices import resident_mb
from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Encoded
from peftkit.methods.full_fine_tuning import FullFineTuning
from peftkit.recipe import Recipe
from peftkit.reports.plan_record import Plan, peak_of
from peftkit.stages.measuring import Cost, make_trial, measure, measured_method
from peftkit.training.forward.steps import number_of_steps

STATE = {"adamw": 8, "sgd": 4, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion": 4}
"""Optimizer -> bytes of its state per trained number."""
FORWARD_OF_FULL = 3
"""Cost of a training pass of full fine-tuning, in forward passes. The backward pass costs two: one
for the gradients of each layer's inputs, one for the gradients of its weights."""
SAVES = 0.95
"""A method saves memory or time if it needs less than this share of what full fine-tuning needs."""


def make_plan(
    recipe: Recipe,
    base: OpenedBase,
    encoded: Encoded,
    parameters: tuple[int, int],
    accelerator: Accelerator,
    *,
    timed: bool,
) -> Plan:
    """Plans a run by measuring two small copies of the base under the recipe's method.

    Args:
        parameters: number of trained parameters, number of all parameters.
        timed: whether to measure time as well, and full fine-tuning for comparison.
    """
    recipe.task.baselines(encoded)  # imports the libraries for scores; their memory counts
    trial = make_trial(recipe, base, encoded, accelerator, timed)
    cost = replace(measure(trial), trained_numbers=float(parameters[0]))
    # includes memory that the allocator keeps, as it will in the run
    process = resident_mb() if accelerator.device.type == "cpu" else 0.0
    course = _course(recipe, encoded)
    parts, peaks = _memory(recipe, base, cost, process, parameters[1], course)
    seconds = _seconds(cost, encoded, course) if timed else {}
    full: dict[str, float] = {}
    if timed and not recipe.method.trains_base_weights and base.spec.quantization == "none":
        other = recipe.with_(method=FullFineTuning())
        full_cost = measure(make_trial(other, base, encoded, accelerator, timed))
        full = {
            "peak_mb": peak_of(_memory(other, base, full_cost, process, parameters[1], course)[1]),
            "training_seconds": _seconds(full_cost, encoded, course)["training"],
        }
    worst = trial.worst.indices
    notes = _notes(recipe, peaks, seconds, full, accelerator.device)
    if measured_method(recipe.method, base) != recipe.method.cost_proxy():
        notes.append(
            "measured with all blocks adapted, which costs more than adapting the chosen ones"
        )
    return Plan(
        *parameters,
        layout=trial.layout,
        num_steps=course.steps,
        tokens_per_epoch=encoded.train.num_tokens,
        worst_batch=(len(worst), encoded.train.tokens_of(worst)),
        parts_mb=parts,
        peaks_mb=peaks,
        seconds=seconds,
        full_fine_tuning=full,
        notes=tuple(notes),
    )


@dataclass(frozen=True)
class _Course:
    """The length of a run without early stopping."""

    steps: int
    passes: float
    """Number of passes over the training rows."""
    validations: int


def _course(recipe: Recipe, encoded: Encoded) -> _Course:
    training = recipe.training
    steps = number_of_steps(training, encoded.train.num_units)
    per_epoch = math.ceil(encoded.train.num_units / training.batch_size)
    every = training.evaluate_every or per_epoch
    return _Course(steps, steps / per_epoch, math.ceil(steps / every))


def forward_tokens(recipe: Recipe, encoded: Encoded, trained_share: float) -> float:
    """A run's computation, as the number of tokens in a forward pass of equal cost.

    A training token passes forward through all blocks and backward through the blocks above the
    lowest trained tensor. The backward pass counts twice if weights of the base get gradients.
    Blocks below that tensor are computed once, not in each epoch. Loading, saving and answers are
    not counted.

    Args:
        trained_share: share of the blocks that gradients pass through.
    """
    course = _course(recipe, encoded)
    validations = 1 + (course.validations - 1) * trained_share
    return (
        _forward_passes(recipe, course, trained_share) * encoded.train.num_tokens
        + validations * encoded.validation.num_tokens
        + 2 * encoded.test.num_tokens
    )


def _forward_passes(recipe: Recipe, course: _Course, trained_share: float) -> float:
    """Cost of all passes over the training rows, in forward passes; see `forward_tokens`. A pass of
    full fine-tuning costs `FORWARD_OF_FULL` forward passes.
    """
    back = FORWARD_OF_FULL - 1 if recipe.method.trains_base_weights else 1
    first = min(1.0, course.passes)
    later = course.passes - first
    return first * (1 + back * trained_share) + later * (1 + back) * trained_share


def estimate_from_full(
    recipe: Recipe,
    base: OpenedBase,
    encoded: Encoded,
    parameters: tuple[int, int],
    trained_share: float,
    full: Cost,
) -> tuple[float, dict[str, float]]:
    """Estimates a recipe's memory and time from the measured cost of full fine-tuning.

    Args:
        parameters: number of trained parameters, number of all parameters.
        trained_share: share of the blocks that gradients pass through.
        full: cost of full fine-tuning, measured on the same base and data.

    Returns:
        The peak memory in MB; and the seconds of training and of evaluation, by name.
    """
    course = _course(recipe, encoded)
    passes = _forward_passes(recipe, course, trained_share) / FORWARD_OF_FULL
    cost = replace(
        full,
        trained_numbers=float(parameters[0]),
        weights_mb=full.weights_mb * _bytes_of_weight(base) / 4,
        training_mb=max(full.evaluation_mb, full.training_mb * trained_share),
        training_seconds=full.training_seconds * passes / course.passes,
    )
    process = 0.0 if torch.cuda.is_available() else resident_mb()
    peaks = _memory(recipe, base, cost, process, parameters[1], course)[1]
    return peak_of(peaks), _seconds(cost, encoded, course)


def _bytes_of_weight(base: OpenedBase) -> float:
    """Bytes of one weight in the base's linear layers, without the scales of quantized weights."""
    if base.spec.quantization == "none":
        return 4.0
    return 1.0 if base.spec.quantization == "int8" else 0.5


def _memory(
    recipe: Recipe,
    base: OpenedBase,
    cost: Cost,
    process: float,
    numbers: int,
    course: _Course,
) -> tuple[dict[str, float], dict[str, float]]:
    """The parts of memory in training, and the peak of each stage, in MB.

    On a CPU, both include the process itself and a copy of the best weights, which is made at the
    first validation. A GPU's memory holds neither.
    """
    trained = cost.trained_numbers / 2**20
    held = process + cost.weights_mb + cost.quantization_state_mb
    files = sum(file.stat().st_size for file in base.folder.glob("*.safetensors")) / 2**20
    best = 4 * trained if process and course.validations > 1 else 0.0
    state = {
        "gradients": 4 * trained,
        "optimizer": STATE[recipe.training.optimizer] * trained,
        "frozen_trunk": cost.kept_mb if process else 0.0,
    }
    parts = {
        "process": process,
        "weights": cost.weights_mb,
        "quantization_state": cost.quantization_state_mb,
        **state,
        "best_weights": best,
        "activations": cost.training_mb,
    }
    peaks = {
        "loading": held + (files if process else 0.0),
        "evaluation": held + sum(state.values()) + best + cost.evaluation_mb,
        "training": sum(parts.values()),
    }
    if recipe.method.refuses_merging(base.spec) is None:
        peaks["merging"] = process + 2 * 4 * numbers / 2**20
    return parts, peaks


def _seconds(cost: Cost, encoded: Encoded, course: _Course) -> dict[str, float]:
    """Expected seconds of training and evaluation; savings by a frozen trunk are not subtracted."""
    evaluated = 2 * encoded.test.num_tokens + course.validations * encoded.validation.num_tokens
    return {
        "training": cost.training_seconds * course.passes * encoded.train.num_tokens,
        "evaluation": cost.evaluation_seconds * evaluated,
    }


def _notes(
    recipe: Recipe,
    peaks: dict[str, float],
    seconds: dict[str, float],
    full: dict[str, float],
    device: torch.device,
) -> list[str]:
    """The plan's notes: a warning if memory is too small, and the savings over full fine-tuning."""
    notes = []
    peak, available = peak_of(peaks), _available_mb(device)
    if peak > available:
        remedy = "set `training.gradient_checkpointing`, or lower `training.micro_batch_tokens`"
        if recipe.training.gradient_checkpointing:
            remedy = "lower `training.micro_batch_tokens`, or load the base in 4 bits"
        notes.append(
            f"it will not fit: {peak:,.0f} MB are needed, {available:,.0f} MB are free; {remedy}"
        )
    if full:
        memory = peak / full["peak_mb"]
        took = seconds["training"] / full["training_seconds"]
        kind, saved = recipe.method.kind(), [w for w, x in (("memory", memory), ("time", took))
                                             if x < SAVES]  # fmt: skip
        costs = f"{memory:.0%} of full fine-tuning's memory and {took:.0%} of its time"
        if saved:
            notes.append(f"{kind} takes {costs}")
        else:
            notes.append(f"{kind} will save neither memory nor time here: {costs}")
    return notes


def _available_mb(device: torch.device) -> float:
    """Memory that the run can use, in MB; on a CPU, includes what the process already uses."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] / 2**20)
    return resident_mb() + float(psutil.virtual_memory().available / 2**20)
