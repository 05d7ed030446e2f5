"""Finds the fastest way to run a model that computes the right thing.

What is right is one example at a time: no padding, no mask, all outputs, PEFT's own LoRA layers.
Each way, the fastest first, is compared with that on a few examples, and is left out if its loss,
outputs or gradients differ. (A comparison of two packed rows would not see what packing breaks.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from peftkit.data.encoded import Examples
from peftkit.errors import first_line, quoted
from peftkit.methods.fast_layers import exact
from peftkit.methods.method import Layout, Method, trainable_parameters
from peftkit.tasks.losses import ValueByValue
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.forward_pass import ForwardPass, base_of

MOST_TOKENS = 1024
"""Of the examples that are compared, unless two of them are longer."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference: of the loss, of the outputs' largest, of each gradient's norm."""


@dataclass(frozen=True)
class Chosen:
    """The way that was chosen, and why not a faster one."""

    engine: Engine
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Computed:
    """What a model gives for some examples."""

    loss: float
    """Total over the examples."""
    gradients: dict[str, Tensor]
    """Of the trained parameters that have one, by name."""
    outputs: Tensor
    """(outputs, classes or vocabulary) float32, in the order of the examples; computed in the
    place of loss and gradients where these are not asked for."""


def choose_engine(
    engine: Engine,
    examples: Examples,
    method: Method,
    layouts: Sequence[Layout],
    *,
    gradients: bool,
) -> Chosen:
    """The fastest way to run the engine's model whose results are those of single examples.

    Args:
        method: that is in the model; faster layers of its own are compared with exact ones, and
            switched off if they differ.
        layouts: those in which batches may be given.
        gradients: whether to compare these too, of what is trained in the model.
    """
    indices = chosen_examples(examples)
    ways, notes = _ways(engine, examples, layouts)
    right = one_by_one(engine, examples, indices, method, gradients)
    chosen = ways[-1]
    for way in ways:
        wrong = wrong_with(way, right, examples, indices, method)
        fast = method.fast(engine.model)
        if wrong and fast:
            with exact(fast):
                culprit = not wrong_with(way, right, examples, indices, method)
            if culprit:
                notes.append(f"PEFT computes LoRA; peftkit's layers would not do: {wrong}")
                for layer in fast:
                    layer.fused = False
                wrong = ""
        if not wrong:
            chosen = way
            break
        told = "computing only what is read" if way.forward.only_read else "padded batches"
        told = {"packed": "packed batches", "shared": "shared beginnings"}.get(way.layout, told)
        notes.append(f"{told} would not do for {type(base_of(engine.model)).__name__}: {wrong}")
    if engine.accelerator.num_processes > 1:  # all take the slowest
        chosen = ways[max(gather_object([ways.index(chosen)]))]
    return Chosen(chosen, tuple(notes))


def _ways(
    engine: Engine, examples: Examples, layouts: Sequence[Layout]
) -> tuple[list[Engine], list[str]]:
    """The ways that the architecture may bear, the fastest first; the last is always right."""
    ways = [engine.in_layout("padded"), _plain(engine)]
    if "packed" not in layouts:
        return ways, []
    if reason := cannot_pack(engine.model):
        return ways, [f"batches are padded: {reason}"]
    ways.insert(0, engine.in_layout("packed"))
    if shares(engine.model, examples):
        ways.insert(0, engine.in_layout("shared"))
    return ways, []


def _plain(engine: Engine) -> Engine:
    forward = ForwardPass(engine.model, engine.head.output, only_read=False)
    return replace(engine, forward=forward, trunk=None)


def cannot_pack(model: nn.Module) -> str | None:
    """None, or why a model's architecture is not given packed batches."""
    base = base_of(model)
    if base.config.is_encoder_decoder:
        return f"{type(base).__name__} has an encoder and a decoder"
    if not getattr(base, "_supports_attention_backend", False):
        return f"{type(base).__name__} has an attention of its own"
    kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"{type(base).__name__} has layers of {quoted(other)}, which know no documents"
    return None


def shares(model: nn.Module, examples: Examples) -> bool:
    """Whether the examples that are compared begin with the same tokens, and no token sees those
    after it: then what is shared may be computed once.
    """
    causal = {bool(m.is_causal) for m in model.modules() if hasattr(m, "is_causal")}
    return causal == {True} and examples.shared_tokens(chosen_examples(examples)) > 0


def chosen_examples(examples: Examples) -> tuple[int, ...]:
    """A few of the first examples: the shortest, the longest, and others as far as tokens allow."""
    first = range(min(len(examples), 32))
    order = sorted(first, key=examples.cost)
    chosen = list(dict.fromkeys((order[0], order[len(order) // 2])))
    for index in (order[-1], order[len(order) // 4]):
        total = sum(examples.cost(known) for known in (*chosen, index))
        if index not in chosen and total <= MOST_TOKENS:
            chosen.append(index)
    return tuple(chosen)


def one_by_one(
    engine: Engine, examples: Examples, indices: Sequence[int], method: Method, gradients: bool
) -> Computed:
    """What is right: each example by itself."""
    with exact(method.fast(engine.model)):
        singles = [(index,) for index in indices]
        return _compute(_plain(engine), examples, singles, method, gradients)


def wrong_with(
    engine: Engine, right: Computed, examples: Examples, indices: tuple[int, ...], method: Method
) -> str:
    """How the results of an engine differ from what is right, or why there are none; empty if they
    are the same.
    """
    try:
        found = _compute(engine, examples, [indices], method, bool(right.gradients))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an architecture that cannot be run this way
        return f"{type(error).__name__}: {first_line(error)}"
    return _difference(right, found, TOLERANCE[_dtype(engine)])


def _compute(
    engine: Engine,
    examples: Examples,
    batches: Sequence[tuple[int, ...]],
    method: Method,
    gradients: bool,
) -> Computed:
    """Loss, outputs and gradients of several batches, in evaluation mode."""
    model, loss = engine.model, engine.loss.plain()
    plain = replace(engine, loss=loss if examples.units is None else ValueByValue(loss))
    training = model.training
    model.eval()
    for layer in method.fast(model):  # in bfloat16 they compute otherwise outside of training
        layer.training = gradients
    try:
        if not gradients:
            return Computed(0.0, {}, torch.cat(_outputs(plain, examples, batches)))
        total = plain.gradients(examples, batches, sync=False).loss.item()
        of_trained = {
            name: parameter.grad
            for name, parameter in trainable_parameters(model).items()
            if parameter.grad is not None
        }
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    return Computed(total, of_trained, torch.empty(0))


def _outputs(
    engine: Engine, examples: Examples, batches: Sequence[tuple[int, ...]]
) -> list[Tensor]:
    with torch.no_grad(), engine.accelerator.autocast():
        return [
            part.float()
            for indices in batches
            for _, part in engine.outputs(engine.batch(examples, indices))
        ]


def _difference(right: Computed, found: Computed, tolerance: float) -> str:
    """What is wrong with a computation; empty if it is right."""
    if right.outputs.shape != found.outputs.shape:
        return f"outputs are {tuple(found.outputs.shape)}, not {tuple(right.outputs.shape)}"
    off = {"the loss": abs(right.loss - found.loss) / max(abs(right.loss), 1e-6)}
    if len(right.outputs):
        scale = float(right.outputs.abs().max().clamp(min=1e-6))
        off["outputs"] = float((right.outputs - found.outputs).abs().max()) / scale
    if right.gradients.keys() != found.gradients.keys():
        return "other parameters get gradients"
    norms = {name: float(gradient.float().norm()) for name, gradient in right.gradients.items()}
    least = tolerance**0.5 * max(norms.values(), default=0.0)  # some gradients are but noise
    for name, gradient in right.gradients.items():
        rest = float((gradient.float() - found.gradients[name].float()).norm())
        off["gradients"] = max(off.get("gradients", 0.0), rest / max(norms[name], least, 1e-12))
    wrong = [f"{name} differ by {of:.1g}" for name, of in off.items() if not of <= tolerance]
    return ", ".join(wrong)


def _dtype(engine: Engine) -> Any:
    if engine.accelerator.mixed_precision == "bf16":
        return torch.bfloat16
    dtypes = {p.dtype for p in engine.model.parameters() if p.is_floating_point()}
    return next((d for d in (torch.bfloat16, torch.float16) if d in dtypes), torch.float32)
