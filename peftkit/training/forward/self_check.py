"""Chooses how to run a model: the fastest way whose results are correct.

The reference runs one example at a time: no padding, no mask, all outputs, PEFT's own LoRA layers.
Each faster way, the fastest first, is compared with the reference on a few examples. It is rejected
if loss, outputs or gradients differ. (Comparing two packed rows would not show errors of packing.)
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
"""Maximum number of tokens of all compared examples together. Two examples are always compared,
even if they have more tokens."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""dtype -> largest allowed relative difference of losses, outputs and gradients. Outputs count
relative to the largest output, a gradient relative to its norm."""


@dataclass(frozen=True)
class Chosen:
    """The chosen engine, and notes on why faster engines were rejected."""

    engine: Engine
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Computed:
    """A model's results for some examples: either loss and gradients, or outputs."""

    loss: float
    """Total loss over the examples."""
    gradients: dict[str, Tensor]
    """Gradients of the trained parameters that have one, by name."""
    outputs: Tensor
    """(outputs, classes or vocabulary) float32, in the order of the examples; empty if loss and
    gradients are computed."""


def choose_engine(
    engine: Engine,
    examples: Examples,
    method: Method,
    layouts: Sequence[Layout],
    *,
    gradients: bool,
) -> Chosen:
    """Tries several ways to run the engine's model; chooses the fastest whose results are correct.

    Args:
        method: the injected method. If its fast layers give wrong results, they are switched off.
        layouts: the layouts that may be chosen.
        gradients: whether to compare loss and gradients instead of outputs.
    """
    indices = chosen_examples(examples)
    ways, notes = _ways(engine, examples, layouts)
    reference = one_by_one(engine, examples, indices, method, gradients)
    chosen = ways[-1]
    for way in ways:
        wrong = find_difference(way, reference, examples, indices, method)
        fast = method.fast(engine.model)
        if wrong and fast:
            with exact(fast):
                culprit = not find_difference(way, reference, examples, indices, method)
            if culprit:
                notes.append(f"PEFT's LoRA layers are used, as peftkit's are not exact: {wrong}")
                for layer in fast:
                    layer.fused = False
                wrong = ""
        if not wrong:
            chosen = way
            break
        name = "computing only what is read" if way.forward.only_read else "padded batches"
        name = {"packed": "packed batches", "shared": "shared beginnings"}.get(way.layout, name)
        notes.append(f"{name} cannot be used for {type(base_of(engine.model)).__name__}: {wrong}")
    if engine.accelerator.num_processes > 1:  # all processes take the slowest choice
        chosen = ways[max(gather_object([ways.index(chosen)]))]
    return Chosen(chosen, tuple(notes))


def _ways(
    engine: Engine, examples: Examples, layouts: Sequence[Layout]
) -> tuple[list[Engine], list[str]]:
    """Returns the ways to run the model that its architecture can support, the fastest first, and
    notes on ways left out. The last way is exact for every architecture.
    """
    ways = [engine.in_layout("padded"), _plain(engine)]
    if "packed" not in layouts:
        return ways, []
    if reason := cannot_pack(engine.model):
        return ways, [f"batches are padded: {reason}"]
    ways.insert(0, engine.in_layout("packed"))
    if shares_beginning(engine.model, examples):
        ways.insert(0, engine.in_layout("shared"))
    return ways, []


def _plain(engine: Engine) -> Engine:
    forward = ForwardPass(engine.model, engine.head.output, only_read=False)
    return replace(engine, forward=forward, trunk=None)


def cannot_pack(model: nn.Module) -> str | None:
    """Returns the reason why a model's batches cannot be packed; None if they can."""
    base = base_of(model)
    if base.config.is_encoder_decoder:
        return f"{type(base).__name__} has an encoder and a decoder"
    if not getattr(base, "_supports_attention_backend", False):
        return f"{type(base).__name__} has its own attention"
    kinds = set(getattr(base.config.get_text_config(), "layer_types", None) or ())
    if other := sorted(kinds - {"full_attention", "sliding_attention"}):
        return f"{type(base).__name__} has layers of {quoted(other)}, which mix packed documents"
    return None


def shares_beginning(model: nn.Module, examples: Examples) -> bool:
    """Whether first tokens can be computed once for all examples: the compared examples share them,
    and no token sees later tokens.
    """
    causal = {bool(m.is_causal) for m in model.modules() if hasattr(m, "is_causal")}
    return causal == {True} and examples.shared_tokens(chosen_examples(examples)) > 0


def chosen_examples(examples: Examples) -> tuple[int, ...]:
    """Returns the indices of the examples to compare. Of the first 32 examples, these are the
    shortest one and the one of median length. The longest one and the one at the lower quartile are
    each added if the chosen examples then have at most `MOST_TOKENS` tokens together.
    """
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
    """Computes the reference: runs each example by itself."""
    with exact(method.fast(engine.model)):
        singles = [(index,) for index in indices]
        return _compute(_plain(engine), examples, singles, method, gradients)


def find_difference(
    engine: Engine,
    reference: Computed,
    examples: Examples,
    indices: tuple[int, ...],
    method: Method,
) -> str:
    """Describes how an engine's results differ from the reference, or why the engine fails. If the
    results agree, returns an empty text.
    """
    try:
        results = _compute(engine, examples, [indices], method, bool(reference.gradients))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # the architecture does not support this way
        return f"{type(error).__name__}: {first_line(error)}"
    return _difference(reference, results, TOLERANCE[_dtype(engine)])


def _compute(
    engine: Engine,
    examples: Examples,
    batches: Sequence[tuple[int, ...]],
    method: Method,
    gradients: bool,
) -> Computed:
    """Runs batches in evaluation mode; returns outputs, or if `gradients`, loss and gradients."""
    model, loss = engine.model, engine.loss.plain()
    plain = replace(engine, loss=loss if examples.units is None else ValueByValue(loss))
    training = model.training
    model.eval()
    for layer in method.fast(model):  # fast layers differ in bfloat16 outside of training
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


def _difference(reference: Computed, results: Computed, tolerance: float) -> str:
    """Describes how results differ from the reference; empty if they agree within tolerance."""
    if reference.outputs.shape != results.outputs.shape:
        return f"outputs are {tuple(results.outputs.shape)}, not {tuple(reference.outputs.shape)}"
    off = {"losses": abs(reference.loss - results.loss) / max(abs(reference.loss), 1e-6)}
    if len(reference.outputs):
        scale = float(reference.outputs.abs().max().clamp(min=1e-6))
        off["outputs"] = float((reference.outputs - results.outputs).abs().max()) / scale
    if reference.gradients.keys() != results.gradients.keys():
        return "other parameters get gradients"
    norms = {name: float(gradient.float().norm()) for name, gradient in reference.gradients.items()}
    least = tolerance**0.5 * max(norms.values(), default=0.0)  # smaller gradients are only noise
    for name, gradient in reference.gradients.items():
        rest = float((gradient.float() - results.gradients[name].float()).norm())
        off["gradients"] = max(off.get("gradients", 0.0), rest / max(norms[name], least, 1e-12))
    wrong = [
        f"{name} differ by {value:.1g}" for name, value in off.items() if not value <= tolerance
    ]
    return ", ".join(wrong)


def _dtype(engine: Engine) -> Any:
    if engine.accelerator.mixed_precision == "bf16":
        return torch.bfloat16
    dtypes = {p.dtype for p in engine.model.parameters() if p.is_floating_point()}
    return next((d for d in (torch.bfloat16, torch.float16) if d in dtypes), torch.float32)
