"""Layers that compute the same as a method's plain ones in less time."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn


class FastLayer(Protocol):
    """One of them; a module of the model."""

    fused: bool
    """False to leave the computation to the plain layer."""
    training: bool

    @property
    def moved(self) -> Tensor | None:
        """The weight of the base that lies in a matrix of this layer; None if none does."""

    def unfuse(self) -> None:
        """Gives that weight a place of its own again."""


@contextlib.contextmanager
def exact(layers: Sequence[FastLayer]) -> Iterator[None]:
    """Inside, plain layers compute in the place of these."""
    fused = [layer for layer in layers if layer.fused]
    for layer in fused:
        layer.fused = False
    try:
        yield
    finally:
        for layer in fused:
            layer.fused = True


def release_checkpoint_mapping(model: nn.Module, layers: Sequence[FastLayer]) -> None:
    """Copies all weights that no layer has moved, if the moved ones are more. A file of weights
    stays mapped as a whole, and counts as this process's memory, while one of them lies in it.
    """
    moved = {id(layer.moved) for layer in layers if layer.moved is not None}
    left = [parameter for parameter in model.parameters() if id(parameter) not in moved]
    if 2 * sum(p.nbytes for p in left) < sum(p.nbytes for p in model.parameters()):
        for parameter in left:
            parameter.data = parameter.data.clone()
