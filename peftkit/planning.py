"""What a run will take, before its weights are loaded.

Memory and time grow linearly with the number of blocks. So two copies of the base with a few blocks
and random weights are measured on the run's own worst batch, and a line through both says the rest:

    cost(L) = cost(k) + (L - k) / 3 * (cost(k + 3) - cost(k))
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch import nn

from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.footprint import footprint
from peftkit.bases.loading import load_weights
from peftkit.bases.opening import OpenedBase
from peftkit.bases.shrunk import depth, shrunk
from peftkit.data.encoded import Encoded
from peftkit.errors import MethodError
from peftkit.methods.full_fine_tuning import FullFineTuning
from peftkit.methods.method import Layout, Method, trainable_parameters
from peftkit.recipe import Recipe
from peftkit.training.batching import (
    count_steps,
    inference_batches,
    row_tokens,
    worst_micro_batch,
)
from peftkit.training.collating import collate, to_device
from peftkit.training.devices import LiveMemory, resident_mb, weights_dtype
from peftkit.training.loop import keep_few_activations
from peftkit.training.reading import Reader
from peftkit.training.self_check import cannot_pack

STATE = {"adamw": 8, "sgd": 4, "adamw_8bit": 2, "paged_adamw_8bit": 2, "lion": 4}
"""Bytes of the optimizer's state for each trained number."""
MOST_BLOCKS = 6
"""Of the smaller copy; a method may need as many."""
APART = 3
"""Blocks that the larger copy has more."""
MEASURED_SECONDS = 1.5
"""For which a pass is repeated, at least twice; the quickest counts."""
SAVES = 0.95
"""Less than this share of full fine-tuning's memory or time counts as saved."""


@dataclass(frozen=True)
class Cost:
    """Of a model of some depth; megabytes are 2^20 bytes."""

    weights_mb: float
    quantization_state_mb: float
    trained_numbers: float
    training_mb: float
    """Most that is alive at once in a forward and backward pass of the worst batch, besides
    weights: activations, gradients, logits."""
    evaluation_mb: float
    """The same of a forward pass alone."""
    training_seconds: float
    """Of that pass; 0 if time was not measured."""
    evaluation_seconds: float

    def at(self, other: Cost, share: float) -> Cost:
        """On the line from this cost to another, so many times as far away as that."""
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Cost(**{name: one + share * max(0.0, two - one) for (name, one), two in pairs})


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take; megabytes are 2^20 bytes."""

    trainable_parameters: int
    total_parameters: int
    layout: Layout
    num_steps: int
    tokens_per_epoch: int
    worst_batch: tuple[int, int]
    """Examples and tokens."""
    parts_mb: dict[str, float]
    """What memory is for, in training."""
    peaks_mb: dict[str, float]
    """Most memory while loading, evaluating, training and merging."""
    seconds: dict[str, float]
    """Of evaluation and training; empty if time was not measured."""
    full_fine_tuning: dict[str, float]
    """`peak_mb` and `training_seconds` of the same recipe with it; empty if not asked for."""
    notes: tuple[str, ...]

    @property
    def peak_mb(self) -> float:
        """Most memory of the whole run, merging aside."""
        return max(mb for stage, mb in self.peaks_mb.items() if stage != "merging")

    def to_json(self) -> dict[str, Any]:
        """For run.json and `--json`."""
        return {**asdict(self), "peak_mb": self.peak_mb}


def make_plan(
    recipe: Recipe,
    base: OpenedBase,
    encoded: Encoded,
    parameters: tuple[int, int],
    accelerator: Accelerator,
    *,
    timed: bool,
) -> Plan:
    """Measures two small copies of the base under the recipe's method.

    Args:
        parameters: how many are trained, and how many there are.
        timed: whether to measure time as well, and full fine-tuning beside it.
    """
    process = resident_mb() if accelerator.device.type == "cpu" else 0.0
    layout, cost = measure(recipe, recipe.method, base, encoded, accelerator, timed)
    cost = replace(cost, trained_numbers=float(parameters[0]))
    parts, peaks = _memory(recipe, base, cost, process)
    examples = encoded.train
    worst = worst_micro_batch(examples, recipe.training, layout, accelerator)
    training = recipe.training
    steps = count_steps(len(examples), training.batch_size, training.num_epochs, training.max_steps)
    passes = steps * training.batch_size / len(examples)
    seconds = _seconds(cost, encoded, worst, passes) if timed else {}
    full: dict[str, float] = {}
    if timed and not isinstance(recipe.method, FullFineTuning) and base.spec.quantization == "none":
        _, of_full = measure(recipe, FullFineTuning(), base, encoded, accelerator, timed)
        _, full_peaks = _memory(recipe, base, of_full, process)
        full = {
            "peak_mb": max(full_peaks["training"], full_peaks["loading"]),
            "training_seconds": _seconds(of_full, encoded, worst, passes)["training"],
        }
    return Plan(
        *parameters,
        layout=layout,
        num_steps=steps,
        tokens_per_epoch=examples.num_tokens,
        worst_batch=(len(worst), sum(len(examples.input_ids[index]) for index in worst)),
        parts_mb=parts,
        peaks_mb=peaks,
        seconds=seconds,
        full_fine_tuning=full,
        notes=tuple(_notes(recipe, peaks, seconds, full, accelerator.device)),
    )


def measure(
    recipe: Recipe,
    method: Method,
    base: OpenedBase,
    encoded: Encoded,
    accelerator: Accelerator,
    timed: bool,
) -> tuple[Layout, Cost]:
    """The layout of the batches, and the cost of the whole base under a method.

    Raises:
        MethodError: the method cannot be put into a copy with few blocks.
    """
    blocks, method = depth(base), method.stand_in()
    failed: MethodError | None = None
    for least in range(1, 1 + min(MOST_BLOCKS, blocks)):
        try:
            layout, one = _small(least, recipe, method, base, encoded, accelerator, timed)
            if blocks == least:
                return layout, one
            more = min(APART, blocks - least)
            _, two = _small(least + more, recipe, method, base, encoded, accelerator, timed)
        except MethodError as error:  # it trains the last two blocks, and there is one
            failed = error
        else:
            return layout, one.at(two, (blocks - least) / more)
    assert failed is not None
    raise failed


def _small(
    num_blocks: int,
    recipe: Recipe,
    method: Method,
    base: OpenedBase,
    encoded: Encoded,
    accelerator: Accelerator,
    timed: bool,
) -> tuple[Layout, Cost]:
    """Measures a copy of so many blocks."""
    with tempfile.TemporaryDirectory(prefix="peftkit-") as folder, torch.random.fork_rng():
        small = shrunk(base, encoded.head, num_blocks, Path(folder))
        dtype = weights_dtype(recipe.base, method.trains_base_weights)
        loaded = load_weights(
            small, encoded.head, dtype, accelerator.device, recipe.training.dropout
        )
        held = footprint(loaded.model)
        model = method.inject(loaded.model, encoded, loaded.head)
        train_added_tokens(model, base.added_ids)
    layout = _layout(recipe, method, model)
    if recipe.training.gradient_checkpointing:
        keep_few_activations(model)
    reader = Reader(model, recipe.task.reads, layout)
    train, evaluate = _passes(reader, recipe, encoded, accelerator)
    cost = Cost(
        held.weights_mb,
        held.quantization_state_mb,
        float(sum(p.numel() for p in trainable_parameters(model).values())),
        *(_most_alive(run, accelerator.device) for run in (train, evaluate)),
        *(_quickest(run) if timed else 0.0 for run in (train, evaluate)),
    )
    del model, loaded, reader, train, evaluate
    gc.collect()
    return layout, cost


def _layout(recipe: Recipe, method: Method, model: nn.Module) -> Layout:
    """The layout that the batches will have, unless the self-check finds it wrong."""
    packs = recipe.training.layout == "auto" and "packed" in method.layouts
    return "packed" if packs and not cannot_pack(model) else "padded"


def _passes(
    reader: Reader, recipe: Recipe, encoded: Encoded, accelerator: Accelerator
) -> tuple[Callable[[], None], Callable[[], None]]:
    """The worst batch forward and backward, and the worst of evaluation forward."""
    task, training, model = recipe.task, recipe.training, reader.model
    layout, pad = reader.layout, encoded.pad_token_id

    def batch_of(examples: Any, indices: tuple[int, ...]) -> Any:
        return to_device(collate(examples, indices, task.reads, pad, layout), accelerator.device)

    worst = batch_of(encoded.train, worst_micro_batch(encoded.train, training, layout, accelerator))
    tokens = row_tokens(training.micro_batch_tokens, layout, accelerator.device.type == "cpu")
    longest = batch_of(encoded.test, next(inference_batches(encoded.test, tokens, layout)))

    def train() -> None:
        model.train()
        with accelerator.autocast(), reader.ready(worst) as given:
            reader.loss(given, partial(task.loss, label_smoothing=0.0)).backward()  # type: ignore[no-untyped-call]

    def evaluate() -> None:
        model.eval()
        with accelerator.autocast(), torch.inference_mode(), reader.ready(longest) as given:
            for _ in reader.outputs(given):
                pass

    return train, evaluate


def _most_alive(run: Callable[[], None], device: torch.device) -> float:
    """Most memory that a computation holds besides what was there before, in MB.

    Gradients are there before, as from a micro-batch that went ahead.
    """
    run()
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    live = LiveMemory()
    with live:
        run()
    return float(live.peak / 2**20)


def _quickest(run: Callable[[], None]) -> float:
    """Seconds of a computation, the shortest of several."""
    found: list[float] = []
    while len(found) < 2 or sum(found) < MEASURED_SECONDS:
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)


def _memory(
    recipe: Recipe, base: OpenedBase, cost: Cost, process: float
) -> tuple[dict[str, float], dict[str, float]]:
    """What memory is for in training, and the peaks of the stages.

    On a CPU the process itself counts, and the copy of the best weights; a GPU holds neither.
    """
    trained = cost.trained_numbers / 2**20
    held = process + cost.weights_mb + cost.quantization_state_mb
    files = sum(file.stat().st_size for file in base.folder.glob("*.safetensors")) / 2**20
    parts = {
        "process": process,
        "weights": cost.weights_mb,
        "quantization_state": cost.quantization_state_mb,
        "gradients": 4 * trained,
        "optimizer": STATE[recipe.training.optimizer] * trained,
        "best_weights": 4 * trained if process else 0.0,
        "activations": cost.training_mb,
    }
    peaks = {
        "loading": held + (files if process else 0.0),
        "evaluation": held + cost.evaluation_mb,
        "training": sum(parts.values()),
        "merging": held + cost.weights_mb,
    }
    return parts, peaks


def _seconds(
    cost: Cost, encoded: Encoded, worst: tuple[int, ...], passes: float
) -> dict[str, float]:
    """Expected of the whole run, from the worst batch and the number of tokens."""
    tokens = sum(len(encoded.train.input_ids[index]) for index in worst)
    of_token = cost.training_seconds / tokens
    evaluated = 2 * encoded.test.num_tokens + passes * encoded.validation.num_tokens
    return {
        "training": of_token * passes * encoded.train.num_tokens,
        "evaluation": cost.evaluation_seconds / tokens * evaluated,
    }


def _notes(
    recipe: Recipe,
    peaks: dict[str, float],
    seconds: dict[str, float],
    full: dict[str, float],
    device: torch.device,
) -> list[str]:
    """What a person should know before starting."""
    notes = []
    peak = max(peaks["loading"], peaks["evaluation"], peaks["training"])
    there = _available_mb(device)
    if peak > there:
        way = "set `training.gradient_checkpointing`, or lower `training.micro_batch_tokens`"
        if recipe.training.gradient_checkpointing:
            way = "lower `training.micro_batch_tokens`, or load the base in 4 bits"
        notes.append(f"it will not fit: {peak:,.0f} MB are needed, {there:,.0f} MB are free; {way}")
    if full:
        memory = peak / full["peak_mb"]
        took = seconds["training"] / full["training_seconds"]
        kind, saved = recipe.method.kind(), [w for w, x in (("memory", memory), ("time", took))
                                             if x < SAVES]  # fmt: skip
        told = f"{memory:.0%} of full fine-tuning's memory and {took:.0%} of its time"
        if saved:
            notes.append(f"{kind} takes {told}")
        else:
            notes.append(f"{kind} will save neither memory nor time here: {told}")
    return notes


def _available_mb(device: torch.device) -> float:
    """Memory that this process may come to hold, in MB."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[0] / 2**20)
    return resident_mb() + float(psutil.virtual_memory().available / 2**20)
