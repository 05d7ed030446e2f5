"""What a base costs under a method, from copies of it that have a few blocks and random weights.

Memory and time grow linearly with the number of blocks, so that two copies, measured on the run's
own worst batch, tell those of the whole:

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
from peftkit.methods.targets.targets import names_a_block
from peftkit.recipe import Recipe
from peftkit.stages.small_copies import least_blocks, shrunk
from peftkit.training.forward.batching import Worst, padded_tokens, worst_micro_batch
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.forward_pass import base_of
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.frozen_trunk import find_frozen_trunk
from peftkit.training.forward.self_check import cannot_pack, shares
from peftkit.training.loop import keep_few_activations

MOST_BLOCKS = 6
"""Of the smaller copy; a method may need as many."""
APART = 3
"""Blocks that the larger copy has more."""
WHOLE_BLOCKS = 12
"""Most blocks of a base that is measured as it is where a small copy will not do."""
MEASURED_SECONDS = 1.5
"""For which a pass is repeated in a plan; the quickest counts."""


@dataclass(frozen=True)
class Cost:
    """Of a model of some depth; megabytes are 2^20 bytes."""

    weights_mb: float
    quantization_state_mb: float
    trained_numbers: float
    training_mb: float
    """Most that is alive at once in a forward and backward pass of the worst batch, besides
    weights and the gradients of what is trained: activations, their gradients, logits."""
    evaluation_mb: float
    """The same of a forward pass alone."""
    kept_mb: float
    """Hidden states of all examples, where lower blocks are frozen."""
    training_seconds: float
    """Of a token in the forward and backward pass; 0 if time was not measured."""
    evaluation_seconds: float
    """The same of a forward pass alone."""

    def at(self, other: Cost, share: float) -> Cost:
        """On the line from this cost to another, so many times as far away as that."""
        pairs = zip(asdict(self).items(), asdict(other).values(), strict=True)
        return Cost(**{name: one + share * max(0.0, two - one) for (name, one), two in pairs})


@dataclass(frozen=True)
class Trial:
    """What is measured: a recipe's method on copies of its base, in its own batches."""

    recipe: Recipe
    base: OpenedBase
    encoded: Encoded
    accelerator: Accelerator
    timed: bool
    """Whether time is measured, and not memory alone."""
    layout: Layout
    worst: Worst
    """The micro-batch with most tokens."""
    seconds: float
    """For which a pass is repeated, at least twice, if time is measured."""


def make_trial(
    recipe: Recipe, base: OpenedBase, encoded: Encoded, accelerator: Accelerator, timed: bool
) -> Trial:
    """With the layout that the batches will have, unless the self-check finds it wrong."""
    packs = recipe.training.layout == "auto" and "packed" in recipe.method.layouts
    model = empty_model(base, encoded.head).model
    packs = packs and not cannot_pack(model)
    layout: Layout = "padded"
    if packs:
        layout = "shared" if shares(model, encoded.train) else "packed"
    worst = worst_micro_batch(encoded.train, recipe, layout, accelerator, base.config)
    return Trial(recipe, base, encoded, accelerator, timed, layout, worst, MEASURED_SECONDS)


def measure(trial: Trial) -> Cost:
    """The cost of the whole base under the recipe's method.

    Raises:
        MethodError: the method cannot be put into a copy with few blocks.
    """
    blocks, method = depth(trial.base), measured_method(trial.recipe.method, trial.base)
    first = min(least_blocks(trial.base), blocks)
    sizes = range(first, 1 + min(max(MOST_BLOCKS, first), blocks))
    if names_blocks(method):  # a copy with other blocks would be another matter
        sizes = range(blocks, blocks + (blocks <= WHOLE_BLOCKS))
    failed = MethodError(
        "the method names single blocks, and the base is too large to be measured as a whole",
        "give `method.target_modules` by names, or go without a plan",
    )
    for least in sizes:
        try:
            one = _small(least, trial, method)
            if blocks == least:
                return one
            more = min(APART, blocks - least)
            two = _small(least + more, trial, method)
        except MethodError as error:  # it trains the last two blocks, and there is one
            failed = error
        else:
            return replace(one.at(two, (blocks - least) / more), kept_mb=two.kept_mb)
    raise failed


def measured_method(method: Method, base: OpenedBase) -> Method:
    """What is measured for a method: on a base that is too large to be measured as a whole, one for
    all blocks in the place of one for some, which takes at least as much.
    """
    found = method.cost_proxy()
    return found.in_every_block() if depth(base) > WHOLE_BLOCKS else found


def names_blocks(method: Method) -> bool:
    """Whether the method is for blocks of certain numbers, of which a small copy has others."""
    settings = getattr(method, "config", None) or dict(method)
    if settings.get("layers_to_transform") not in (None, (), []):
        return True
    names: list[str] = []
    for setting, value in settings.items():
        if setting.endswith(("_modules", "_parameters", "_to_save", "_pattern")) and value:
            names += [value] if isinstance(value, str) else [str(name) for name in value]
    return any(map(names_a_block, names))


def _small(num_blocks: int, trial: Trial, method: Method) -> Cost:
    """Measures a copy of so many blocks."""
    recipe, base, encoded = trial.recipe, trial.base, trial.encoded
    device = trial.accelerator.device
    with (
        tempfile.TemporaryDirectory(prefix="peftkit-") as folder,
        torch.random.fork_rng(rng_devices(device)),
    ):
        small = shrunk(base, encoded.head, num_blocks, Path(folder))
        dtype = weights_dtype(recipe.base, method.trains_base_weights)
        loaded = load_weights(small, encoded.head, dtype, device, recipe.training.dropout)
        held = footprint(loaded.model)
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
    evaluate.run()  # what is made once is there
    cost = Cost(
        held.weights_mb,
        held.quantization_state_mb,
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
    """What a frozen trunk gives for all examples, if it is kept."""
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
    """Of examples that take as long, of the average kind."""


def _passes(engine: Engine, trial: Trial) -> tuple[_Pass, _Pass]:
    """The worst batch forward and backward, and the worst of evaluation forward."""
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
        _Pass(train, round(tokens / (1 - trial.worst.spared))),
        _Pass(evaluate, encoded.test.tokens_of(long)),
    )


def _most_in_training(model: nn.Module, train: _Pass, trial: Trial) -> float:
    """Most memory besides weights and gradients, in MB. The latter are there from the start if a
    micro-batch goes ahead, else they come as activations go.
    """
    train.run()
    gradients = [p.grad for p in trainable_parameters(model).values() if p.grad is not None]
    held = sum(gradient.nbytes for gradient in gradients) / 2**20 if trial.worst.alone else 0.0
    del gradients
    if trial.worst.alone:
        model.zero_grad(set_to_none=True)
    return _most_alive(train.run, trial.accelerator.device) - held


def _most_alive(run: Callable[[], None], device: torch.device) -> float:
    """Most memory that a computation holds besides what was there before, in MB."""
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
    """Seconds of a computation, the shortest of several, repeated for so long in all."""
    found: list[float] = []
    while len(found) < 2 or sum(found) < seconds:
        started = time.perf_counter()
        run()
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        found.append(time.perf_counter() - started)
    return min(found)
