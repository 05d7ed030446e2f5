"""Layers that compute the same as a method's plain layers, but faster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn


class FastLayer(Protocol):
    """A module that computes the same as a plain layer, but faster."""

    fused: bool
    """Whether the faster computation is used; if False, the plain layer computes."""
    training: bool

    @property
    def moved(self) -> Tensor | None:
        """The base layer's weight if this layer has moved it into a larger matrix; None if not."""

    def unfuse(self) -> None:
        """Moves the base layer's weight out of the larger matrix, into its own memory."""


@contextlib.contextmanager
def exact(layers: Sequence[FastLayer]) -> Iterator[None]:
    """A context in which the plain layers compute instead of the fast ones."""
    fused = [layer for layer in layers if layer.fused]
    for layer in fused:
        layer.fused = False
    try:
        yield
    finally:
        for layer in fused:
            layer.fused = True


def release_checkpoint_mapping(model: nn.Module, layers: Sequence[FastLayer]) -> None:
    """Copies the unmoved weights out of the memory-mapped weight file, if they are smaller in total
    than the moved ones. As long as one weight is in the file, the whole file stays in memory.
    """
    moved = {id(layer.moved) for layer in layers if layer.moved is not None}
    unmoved = [parameter for parameter in model.parameters() if id(parameter) not in moved]
    if 2 * sum(p.nbytes for p in unmoved) < sum(p.nbytes for p in model.parameters()):
        for parameter in unmoved:
            parameter.data = parameter.data.clone()
