"""Layers that compute the same as a method's plain layers, but faster."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Protocol

from torch import Tensor, nn


class FastLayer(Protocol):
    """A module that computes the same as a plain layer, but faster."""

    fused: bool
    """Whether it computes in the fast way; if False, the plain layer computes."""
    training: bool

    @property
    def moved(self) -> Tensor | None:
        """The base's weight that was moved into a matrix of this layer; None if none was."""

    def unfuse(self) -> None:
        """Moves the base's weight back into its own memory."""


@contextlib.contextmanager
def exact(layers: Sequence[FastLayer]) -> Iterator[None]:
    """Inside, the plain layers compute instead of the fast ones."""
    fused = [layer for layer in layers if layer.fused]
    for layer in fused:
        layer.fused = False
    try:
        yield
    finally:
        for layer in fused:
            layer.fused = True


def release_checkpoint_mapping(model: nn.Module, layers: Sequence[FastLayer]) -> None:
    """If the unmoved weights are smaller than the moved ones, copies them, so that no weight is in
    the mapped weight file. One such weight keeps the whole file in the memory of this process.
    """
    moved = {id(layer.moved) for layer in layers if layer.moved is not None}
    unmoved = [parameter for parameter in model.parameters() if id(parameter) not in moved]
    if 2 * sum(p.nbytes for p in unmoved) < sum(p.nbytes for p in model.parameters()):
        for parameter in unmoved:
            parameter.data = parameter.data.clone()
