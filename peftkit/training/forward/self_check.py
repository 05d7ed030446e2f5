"""Finds the fastest way to run a model that computes the right thing.

What is right is one example at a time: no padding, no mask, all outputs, PEFT's own LoRA layers.
Each way, the fastest first, is compared with that on a few examples, and is left out if its loss,
outputs or gradients differ. (A comparison of two packed rows would not see what packing breaks.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from peftkit.data.encoded import Encoded, Examples
from peftkit.errors import first_line, quoted
from peftkit.methods.lora_linear import as_peft_computes, own_layers
from peftkit.methods.method import Layout, trainable_parameters
from peftkit.tasks.task import Task
from peftkit.training.forward.collating import collate, to_device
from peftkit.training.forward.reading import Reader, base_of

MOST_TOKENS = 1024
"""Of the examples that are compared, unless two of them are longer."""
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""Largest relative difference: of the loss, of the outputs' largest, of each gradient's norm."""


@dataclass(frozen=True)
class Chosen:
    """The way that was chosen, and why not a faster one."""

    reader: Reader
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Computed:
    """What a model gives for some examples."""

    loss: float
    """Sum over the examples' targets."""
    gradients: dict[str, Tensor]
    """Of the trained parameters that have one, by name."""
    outputs: Tensor
    """(targets, classes or vocabulary) float32, in the order of the examples; computed in the
    place of loss and gradients where these are not asked for."""


def choose_reader(
    model: nn.Module,
    encoded: Encoded,
    task: Task,
    layouts: Sequence[Layout],
    accelerator: Accelerator,
    *,
    gradients: bool,
) -> Chosen:
    """The fastest reader whose results are those of single examples.

    Args:
        layouts: those in which batches may be given.
        gradients: whether to compare these too, of what is trained in the model.
    """
    examples = encoded.train
    indices = chosen_examples(examples)
    ways: list[tuple[Layout, bool]] = [("padded", True), ("padded", False)]
    notes: list[str] = []
    if "packed" in layouts:
        if reason := cannot_pack(model):
            notes.append(f"batches are padded: {reason}")
        else:
            ways.insert(0, ("packed", True))
            if shares(model, examples):
                ways.insert(0, ("shared", True))
    with accelerator.autocast():
        right = one_by_one(model, indices, encoded, task, gradients)
        tolerance = TOLERANCE[_dtype(model, accelerator)]
        found = len(ways) - 1
        for place, (layout, only_read) in enumerate(ways):
            reader = Reader(model, task.reads, layout, only_read)
            wrong = wrong_with(reader, right, indices, encoded, task, tolerance)
            if wrong and own_layers(model):
                with as_peft_computes(model):
                    culprit = not wrong_with(reader, right, indices, encoded, task, tolerance)
                if culprit:
                    notes.append(f"PEFT computes LoRA; peftkit's layers would not do: {wrong}")
                    for layer in own_layers(model):
                        layer.by_itself = False
                    wrong = ""
            if not wrong:
                found = place
                break
            way = "computing only what is read" if only_read else "padded batches"
            way = {"packed": "packed batches", "shared": "shared beginnings"}.get(layout, way)
            notes.append(f"{way} would not do for {type(base_of(model)).__name__}: {wrong}")
    if accelerator.num_processes > 1:  # all take the slowest
        found = max(gather_object([found]))
        reader = Reader(model, task.reads, *ways[found])
    return Chosen(reader, tuple(notes))


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
    order = sorted(first, key=lambda index: len(examples.input_ids[index]))
    chosen = list(dict.fromkeys((order[0], order[len(order) // 2])))
    for index in (order[-1], order[len(order) // 4]):
        total = sum(len(examples.input_ids[known]) for known in (*chosen, index))
        if index not in chosen and total <= MOST_TOKENS:
            chosen.append(index)
    return tuple(chosen)


def one_by_one(
    model: nn.Module, indices: Sequence[int], encoded: Encoded, task: Task, gradients: bool
) -> Computed:
    """What is right: each example by itself."""
    plain = Reader(model, task.reads, "padded", only_read=False)
    with as_peft_computes(model):
        return _compute(plain, [(index,) for index in indices], encoded, task, gradients)


def wrong_with(
    reader: Reader,
    right: Computed,
    indices: tuple[int, ...],
    encoded: Encoded,
    task: Task,
    tolerance: float,
) -> str:
    """How the results of a reader differ from what is right, or why there are none; empty if they
    are the same.
    """
    try:
        found = _compute(reader, [indices], encoded, task, bool(right.gradients))
    except torch.OutOfMemoryError:
        raise
    except Exception as error:  # an architecture that cannot be run this way
        return f"{type(error).__name__}: {first_line(error)}"
    return _difference(right, found, tolerance)


def _compute(
    reader: Reader,
    batches: Sequence[tuple[int, ...]],
    encoded: Encoded,
    task: Task,
    gradients: bool,
) -> Computed:
    """Loss, outputs and gradients of several batches, in evaluation mode."""
    model, examples = reader.model, encoded.train
    training = model.training
    model.eval()
    for layer in own_layers(model):  # which compute by themselves in training only, in bfloat16
        layer.training = gradients
    loss, outputs = 0.0, []
    device = next(model.parameters()).device
    try:
        for indices in batches:
            batch = collate(examples, indices, task.reads, encoded.pad_token_id, reader.layout)
            batch = to_device(batch, device)
            with reader.ready(batch) as given:
                if not gradients:
                    with torch.no_grad():
                        outputs += [part.float() for _, part in reader.outputs(given)]
                else:
                    part = reader.loss(given, partial(task.loss, label_smoothing=0.0))
                    part.backward()  # type: ignore[no-untyped-call]
                    loss += part.item()
        found = {
            name: parameter.grad
            for name, parameter in trainable_parameters(model).items()
            if gradients and parameter.grad is not None
        }
    finally:
        model.zero_grad(set_to_none=True)
        model.train(training)
    return Computed(loss, found, torch.cat(outputs) if outputs else torch.empty(0))


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


def _dtype(model: nn.Module, accelerator: Accelerator) -> Any:
    if accelerator.mixed_precision == "bf16":
        return torch.bfloat16
    dtypes = {p.dtype for p in model.parameters() if p.is_floating_point()}
    return next((d for d in (torch.bfloat16, torch.float16) if d in dtypes), torch.float32)
