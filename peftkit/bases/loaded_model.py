"""Types for a loaded base: its model, its head, and how much is quantized."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from peftkit.errors import quoted

if TYPE_CHECKING:
    from torch import nn


@dataclass(frozen=True)
class LoadedModel:
    """A model with pretrained weights and, if the task has one, a head to train."""

    model: nn.Module
    head: tuple[str, ...]
    """Names of the modules that every method trains and saves whole: the task's head, and modules
    that the checkpoint has no weights for."""
    random: tuple[str, ...] = ()
    """Names of the parameters that the checkpoint has no weights for."""
    quantized: Quantized | None = None
    """How much of the model is quantized; None for a base without quantization."""

    @property
    def unquantized(self) -> list[str]:
        """Names of the unquantized matrices of a quantized base; empty for other bases."""
        return self.quantized.unquantized if self.quantized else []


MOST_NAMES = 6


@dataclass(frozen=True)
class Quantized:
    """How much of a base is quantized.

    Counts the matrices in its blocks: parameters with two or more dimensions, except embeddings,
    the output layer, the task's head and a pooler, which are never quantized.
    """

    taken: int
    """Number of weights in quantized layers."""
    left: dict[str, tuple[str, int]]
    """Name of an unquantized matrix in the blocks -> (its module's class, number of weights)."""
    aside: tuple[str, ...]
    """Names of the matrices that `taken` and `left` do not count, except embeddings."""

    @property
    def share(self) -> float:
        """Quantized share of the counted weights; 1 if there are none."""
        all_numbers = self.taken + sum(numbers for _, numbers in self.left.values())
        return self.taken / all_numbers if all_numbers else 1.0

    @property
    def unquantized(self) -> list[str]:
        """Names of all unquantized matrices except embeddings: the value of bitsandbytes' setting
        `llm_int8_skip_modules`.
        """
        return sorted((*self.left, *self.aside))

    def kinds_left(self) -> str:
        """Names the classes of the unquantized matrices, largest first.

        Example: ``MixtralExperts (`gate_up_proj`)``.
        """
        sizes: dict[str, int] = {}
        names: dict[str, list[str]] = {}
        for name, (kind, numbers) in self.left.items():
            sizes[kind] = sizes.get(kind, 0) + numbers
            names.setdefault(kind, []).append(name.rsplit(".", 1)[-1])
        largest = sorted(sizes, key=lambda kind: -sizes[kind])
        return ", ".join(f"{k} ({quoted(dict.fromkeys(names[k]), MOST_NAMES)})" for k in largest)
