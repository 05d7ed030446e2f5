"""Head only: a linear probe of the frozen base (Alain & Bengio 2016, arXiv:1610.01644).

    y = C f(x)        f frozen, C the head

This is the cheapest method; any other method must score better to be worth its cost.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftkit.methods.method import Layout
from peftkit.methods.stored import StoredAsTensors

if TYPE_CHECKING:
    from torch import nn


class HeadOnly(StoredAsTensors):
    """Trains the task's head; the base stays frozen."""

    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    def refuses_rewinding(self) -> str | None:
        return "HeadOnly trains only the head, so the base is unchanged; LoRA can be rewound"

    def trained_names(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        from peftkit.errors import MethodError
        from peftkit.methods.trained_layout import parameters_of

        if not head:
            raise MethodError(
                f"{type(model).__name__} has no head to train for this task",
                "use LoRA, or a task with a head such as TextClassification",
            )
        return parameters_of(model, head)
