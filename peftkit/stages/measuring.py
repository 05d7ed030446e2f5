"""Estimates a method's memory and time on a base from copies with few blocks and random weights.

Memory and time grow linearly with the number of blocks L. The run's largest batch is measured on
two copies, with k and k + 3 blocks. The cost of the whole base follows:

    cost(L) = cost(k) + (L - k) / 3 * (cost(k + 3) - cost(k))
"""

from __future__ import annotations

import gc
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import torch
from accelerate import Accelerator
from torch import nn

from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.architectures import depth
from peftkit.bases.devices import LiveMemory, rng_devices, weights_dtype
from peftkit.bases.footprint import footprint
from peftkit.bases.loading import empty_model, load_weights
from peftkit.bases.opened import OpenedBase
from peftkit.data.encoded import Encoded
from peftkit.errors import MethodError
from peftkit.methods.method import Layout, Method, trainable_parameters
from peftkit.methods.targets.targets import has_block_number
from peftkit.recipe import Recipe
from peftkit.stages.small_copies import least_blocks, shrink_base
from peftkit.training.forward.batching import Worst, padded_tokens, worst_micro_batch
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.forward_pass import base_of
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.frozen_trunk import find_frozen_trunk
from peftkit.training.forward.self_check import cannot_pack, shares_beginning
from peftkit.training.loop import keep_few_activations

MOST_BLOCKS = 6
"""Largest number of blocks in the smaller copy, for methods that need several blocks."""
APART = 3
"""How many more blocks the larger copy has."""
WHOLE_BLOCKS = 12
"""A base that no small copy can represent is measured whole if it has at most this many blocks."""
MEASURED_SECONDS = 1.5
"""Seconds for which a pass is repeated; the time of the fastest repetition is used."""


@dataclass(frozen=True)
class Cost:
    """Memory and time that a model needs; megabytes are 2^20 bytes."""

    weights_mb: float
    quantization_state_mb: float
    trained_numbers: float
    training_mb: float
    """Peak memory of activations, their gradients and logits in a forward and backward pass of the
    largest batch. Weights and the gradients of trained parameters are not included."""
    evaluation_mb: float
    """Peak memory of activations and logits in a forward pass of the largest test batch."""
    kept_mb: float
    """Memory of the stored outputs of frozen lower blocks for all examples; 0 if not stored."""
    training_seconds: float
    """Seconds per token of a forward and backward pass; 0 if time was not measured."""
    evaluation_seconds: float
    """Seconds per token of a forward pass; 0 if time was not measured."""

    def at(self, other: Cost, share: float) -> Cost:
        """A cost between this one (`share` 0) and `other` (`share` 1), or extrapolated beyond 1."""
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Cost(**{name: one + share * max(0.0, two - one) for (name, one), two in pairs})


@dataclass(frozen=True)
class Trial:
    """What to measure: a recipe's method, on copies of its base, with its largest batch."""

    recipe: Recipe
    base: OpenedBase
    encoded: Encoded
    accelerator: Accelerator
    timed: bool
    """Whether to measure time as well as memory."""
    layout: Layout
    worst: Worst
    """The training micro-batch with the most tokens."""
    seconds: float
    """Seconds for which each pass is repeated, at least twice, if time is measured."""


def make_trial(
    recipe: Recipe, base: OpenedBase, encoded: Encoded, accelerator: Accelerator, timed: bool
) -> Trial:
    """A trial with the run's fastest layout, assuming that the self-check accepts the layout."""
    packs = recipe.training.layout == "auto" and "packed" in recipe.method.layouts
    model = empty_model(base, encoded.head).model
    packs = packs and not cannot_pack(model)
    layout: Layout = "padded"
    if packs:
        layout = "shared" if shares_beginning(model, encoded.train) else "packed"
    worst = worst_micro_batch(encoded.train, recipe, layout, accelerator, base.config)
    return Trial(recipe, base, encoded, accelerator, timed, layout, worst, MEASURED_SECONDS)


def measure(trial: Trial) -> Cost:
    """Measures or extrapolates the cost of the recipe's method on the whole base.

    Raises:
        MethodError: the method cannot be injected into a copy with few blocks.
    """
    blocks, method = depth(trial.base), measured_method(trial.recipe.method, trial.base)
    first = min(least_blocks(trial.base), blocks)
    sizes = range(first, 1 + min(max(MOST_BLOCKS, first), blocks))
    if names_blocks(method):  # a smaller copy may lack the named blocks
        sizes = range(blocks, blocks + (blocks <= WHOLE_BLOCKS))
    failed = MethodError(
        "the method names single blocks, and the base is too large to be measured as a whole",
        "give names without block numbers in `method.target_modules`, or train without a plan",
    )
    for least in sizes:
        try:
            one = _measure_copy(least, trial, method)
            if blocks == least:
                return one
            more = min(APART, blocks - least)
            two = _measure_copy(least + more, trial, method)
        except MethodError as error:  # such as training the last two blocks of a copy that has one
            failed = error
        else:
            return replace(one.at(two, (blocks - least) / more), kept_mb=two.kept_mb)
    raise failed


def measured_method(method: Method, base: OpenedBase) -> Method:
    """The method to measure in place of the given one. If the base is too large to measure whole,
    the measured method adapts all blocks, so its cost is an upper bound.
    """
    proxy = method.cost_proxy()
    return proxy.in_every_block() if depth(base) > WHOLE_BLOCKS else proxy


def names_blocks(method: Method) -> bool:
    """Whether the method names blocks by number; a small copy may lack these blocks."""
    settings = getattr(method, "config", None) or dict(method)
    if settings.get("layers_to_transform") not in (None, (), []):
        return True
    names: list[str] = []
    for setting, value in settings.items():
        if setting.endswith(("_modules", "_parameters", "_to_save", "_pattern")) and value:
            names += [value] if isinstance(value, str) else [str(name) for name in value]
    return any(map(has_block_number, names))


def _measure_copy(num_blocks: int, trial: Trial, method: Method) -> Cost:
    """Measures a copy of the base that has `num_blocks` blocks."""
    recipe, base, encoded = trial.recipe, trial.base, trial.encoded
    device = trial.accelerator.device
    with (
        tempfile.TemporaryDirectory(prefix="peftkit-") as folder,
        torch.random.fork_rng(rng_devices(device)),
    ):
        small = shrink_base(base, encoded.head, num_blocks, Path(folder))
        dtype = weights_dtype(recipe.base, method.trains_base_weights)
        loaded = load_weights(small, encoded.head, dtype, device, recipe.training.dropout)
        memory = footprint(loaded.model)
        model = method.inject(loaded.model, encoded, loaded.head)
        train_added_tokens(model, base.added_ids)
    if recipe.training.gradient_checkpointing:
        keep_few_activations(model)
    engine = Engine.of(
        model,
        encoded.head,
        recipe.task.loss(),
        encoded.pad_token_id,
        recipe.training.micro_batch_tokens,
        trial.accelerator,
        trial.layout,
    )
    train, evaluate = _passes(engine, trial)
    evaluate.run()  # creates lasting buffers, so that they are not measured
    cost = Cost(
        memory.weights_mb,
        memory.quantization_state_mb,
        float(sum(p.numel() for p in trainable_parameters(model).values())),
        _most_in_training(model, train, trial),
        _most_alive(evaluate.run, device),
        _kept_mb(engine, trial),
        _quickest(train.run, trial.seconds) / train.tokens if trial.timed else 0.0,
        _quickest(evaluate.run, trial.seconds) / evaluate.tokens if trial.timed else 0.0,
    )
    del model, loaded, engine, train, evaluate
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    return cost


def _kept_mb(engine: Engine, trial: Trial) -> float:
    """Memory of the frozen trunk's stored outputs for all examples, in MB; 0 if not stored."""
    encoded = trial.encoded
    if not engine.forward.packed or trial.recipe.training.num_epochs < 2:
        return 0.0
    padded = engine.in_layout("padded")
    below = modules_below(engine.model, padded.batch(encoded.train, [0]))
    trunk = find_frozen_trunk(
        base_of(engine.model), below, engine.forward.every_token, num_passes=2
    )
    if trunk is None:
        return 0.0
    splits = (encoded.train, encoded.validation)
    rows = sum(split.num_tokens if trunk.whole else len(split) for split in splits)
    return float(rows * engine.config.get_text_config().hidden_size * 4 / 2**20)


@dataclass(frozen=True)
class _Pass:
    """A computation on one batch."""

    run: Callable[[], None]
    tokens: int
    """Number of tokens of average examples that would take as long as this batch."""


def _passes(engine: Engine, trial: Trial) -> tuple[_Pass, _Pass]:
    """The training pass and the evaluation pass to measure, each on its largest batch."""
    encoded, layout, model = trial.encoded, trial.layout, engine.model
    long = engine.batches(encoded.test)[0]
    longest = engine.batch(encoded.test, long)

    def train() -> None:
        model.train()
        engine.gradients(encoded.train, [trial.worst.indices])

    def evaluate() -> None:
        model.eval()
        with trial.accelerator.autocast(), torch.inference_mode():
            for _ in engine.outputs(longest):
                pass

    tokens = padded_tokens(encoded.train, trial.worst.indices, layout)
    if layout == "padded":
        tokens = encoded.train.tokens_of(trial.worst.indices)
    return (
        _Pass(train, round(tokens / (1 - trial.worst.saved_share))),
        _Pass(evaluate, encoded.test.tokens_of(long)),
    )


def _most_in_training(model: nn.Module, train: _Pass, trial: Trial) -> float:
    """Peak memory in training without weights and gradients, in MB. If a step has several
    micro-batches, gradients exist from the start. If it has a single one, they are allocated while
    activations are freed.
    """
    train.run()
    gradients = [p.grad for p in trainable_parameters(model).values() if p.grad is not None]
    held = sum(gradient.nbytes for gradient in gradients) / 2**20 if trial.worst.alone else 0.0
    del gradients
    if trial.worst.alone:
        model.zero_grad(set_to_none=True)
    return _most_alive(train.run, trial.accelerator.device) - held


def _most_alive(run: Callable[[], None], device: torch.device) -> float:
    """Peak memory that a computation adds, in MB."""
    if device.type == "cuda":
        before = torch.cuda.memory_allocated(device)
        torch.cuda.reset_peak_memory_stats(device)
        run()
        return float(torch.cuda.max_memory_allocated(device) - before) / 2**20
    live = LiveMemory()
    with live:
        run()
    return float(live.peak / 2**20)


def _quickest(run: Callable[[], None], seconds: float) -> float:
    """Runs a computation for `seconds`, at least twice; returns the seconds of the fastest run."""
    times: list[float] = []
    while len(times) < 2 or sum(times) < seconds:
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        times.append(time.perf_counter() - started)
    return min(times)
