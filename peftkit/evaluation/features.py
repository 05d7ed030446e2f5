"""Reads the frozen base's features: the input of the head's linear layers.

The head's linear layers are random before training, so the features are the input of the first one.
They are read from a model without these layers, or collected while a split is scored.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import gather_object
from torch import Tensor, nn

from peftkit.data.encoded import Examples
from peftkit.errors import first_line
from peftkit.training.forward.engine import Engine
from peftkit.training.progress import Pace, Say, silent

Floats = npt.NDArray[np.float32]
SAME = 1e-4
"""Largest allowed difference between features from `read_features` and features from
`collect_features`, relative to the largest feature."""


@dataclass(frozen=True)
class FrozenBase:
    """An untrained model with its head, and the engine that runs it."""

    head: tuple[str, ...]
    """Names of the head's modules."""
    engine: Engine
    say: Say = silent
    """Prints progress lines if reading takes long."""

    @property
    def model(self) -> Any:
        """The model; it is in evaluation mode while features are read."""
        return self.engine.model

    def linear_layers(self) -> list[tuple[str, nn.Linear]]:
        """(name, layer) of each linear layer of the head, in the order of definition."""
        return [
            (name, module)
            for name, module in self.model.named_modules()
            if isinstance(module, nn.Linear)
            and any(f"{name}.".startswith(f"{part}.") for part in self.head)
        ]


def read_features(base: FrozenBase, examples: Examples) -> Floats:
    """Reads features, (examples, d), in the order of the examples; each process runs its share of
    the batches.
    """
    pace, parts = Pace(base.say, "frozen probe", len(examples)), []
    with headless(base) as engine, torch.inference_mode(), engine.accelerator.autocast():
        for indices in engine.own_batches(examples):
            parts.append(_outputs(engine, examples, indices).float().cpu().numpy())
            pace.advance(len(indices) * engine.accelerator.num_processes)
    return _in_order(base, examples, parts)


@contextlib.contextmanager
def headless(base: FrozenBase) -> Iterator[Engine]:
    """Replaces the head's linear layers with identities inside the block; yields an engine for the
    changed model.
    """
    model = base.model
    places = []
    for name, module in base.linear_layers():
        parent, _, last = name.rpartition(".")
        places.append((model.get_submodule(parent), last, module))
    try:
        for holder, last, _ in places:
            setattr(holder, last, nn.Identity())
        model.eval()
        yield replace(base.engine, forward=base.engine.forward.rebuilt())
    finally:
        for holder, last, module in places:
            setattr(holder, last, module)


def _outputs(engine: Engine, examples: Examples, indices: tuple[int, ...]) -> Tensor:
    """The outputs of one batch: logits (batch, classes), or features (batch, d)."""
    return torch.cat([part for _, part in engine.outputs(engine.batch(examples, indices))])


def _in_order(base: FrozenBase, examples: Examples, parts: Sequence[Floats]) -> Floats:
    """Joins the batches of all processes, in the order of the examples."""
    batches = list(zip(base.engine.own_batches(examples), parts, strict=True))
    if base.engine.accelerator.num_processes > 1:
        batches = gather_object(batches)
    order = np.argsort(np.concatenate([np.array(indices) for indices, _ in batches]))
    features: Floats = np.concatenate([part for _, part in batches])[order]
    return features


@dataclass
class CollectedFeatures:
    """Features of a split, collected while it is scored."""

    base: FrozenBase
    examples: Examples
    parts: list[Tensor] = field(default_factory=list)
    """Features of each batch, (batch, d), on the CPU."""

    def features(self) -> Floats | None:
        """The features, (examples, d); None if a process lacks the features of a batch."""
        sizes = [len(indices) for indices in self.base.engine.own_batches(self.examples)]
        complete = [[len(part) for part in self.parts] == sizes]
        if self.base.engine.accelerator.num_processes > 1:
            complete = gather_object(complete)
        if not all(complete):
            return None
        return _in_order(self.base, self.examples, [part.float().numpy() for part in self.parts])


@contextlib.contextmanager
def collect_features(base: FrozenBase, examples: Examples) -> Iterator[CollectedFeatures]:
    """Collects features in each forward pass inside the block; the logits stay the same.

    The head's first linear layer appends its input to its output, and the other layers pass this
    part on unchanged. After the head, this part is cut off the logits.
    """
    seen, inside = CollectedFeatures(base, examples), [False]
    layers = [layer for _, layer in base.linear_layers()]

    def enter(_: nn.Module, __: Any) -> None:
        inside[0] = True
        seen.parts.append(torch.empty(0))

    def leave(_: nn.Module, __: Any, outputs: Any) -> None:
        inside[0] = False
        width = layers[-1].out_features
        seen.parts[-1] = outputs.logits[..., width:].cpu()
        outputs.logits = outputs.logits[..., :width]

    def narrow(layer: nn.Linear, args: tuple[Tensor, ...]) -> Any:
        wide = args[0]
        carried.append(wide[..., layer.in_features :] if layer is not layers[0] else wide)
        return (wide[..., : layer.in_features].contiguous(),)

    def widen(_: nn.Module, __: Any, out: Tensor) -> Tensor:
        features = carried.pop()
        if inside[0]:
            return torch.cat([out, features.to(out.dtype)], dim=-1)
        # for a packed row, the layer runs again, on the places that are read
        seen.parts[-1] = features.cpu()
        return out

    carried: list[Tensor] = []
    handles = [base.model.register_forward_pre_hook(enter), base.model.register_forward_hook(leave)]
    for layer in layers:
        handles += [layer.register_forward_pre_hook(narrow), layer.register_forward_hook(widen)]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


@dataclass(frozen=True)
class FeatureWays:
    """The ways to read features that work for an architecture."""

    failed: str = ""
    """Why features cannot be read at all; empty if they can."""
    while_scoring: bool = False
    """Whether features can be collected during scoring without changing the logits."""


def try_features(base: FrozenBase, examples: Examples) -> FeatureWays:
    """Tries to read features without the head's linear layers, and to collect them while scoring.
    Every process tries this on the shortest example.
    """
    shortest = min(range(len(examples)), key=examples.cost)
    one = examples.chosen([shortest])
    base.model.eval()
    with base.engine.accelerator.autocast(), torch.inference_mode():
        try:
            with headless(base) as engine:
                alone = _outputs(engine, one, (0,))
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # the head is not a plain sequence of layers
            reason = f"{type(error).__name__}: {first_line(error)}"
            return FeatureWays(f"the head cannot be left out: {reason}")
        plain = _outputs(base.engine, one, (0,))
        try:
            with collect_features(base, one) as seen:
                logits = _outputs(base.engine, one, (0,))
        except (RuntimeError, IndexError):  # a norm in the head has a fixed width, or the head
            return FeatureWays()  # has no linear layer
    collected, alone = seen.parts[-1], alone.cpu()
    if collected.shape != alone.shape or not torch.equal(plain, logits):
        return FeatureWays()
    off = float((collected.float() - alone.float()).abs().max())
    return FeatureWays(while_scoring=off <= SAME * max(1e-6, float(alone.abs().max())))
