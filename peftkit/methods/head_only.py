"""Head only: a linear probe of the frozen base (Alain & Bengio 2016, arXiv:1610.01644).

    y = C f(x)        f frozen, C the head

The cheapest method, and the bar that every other one must clear.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from peftkit.methods.method import Layout, Method, train_only

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class HeadOnly(Method):
    """Trains the task's head; the base stays as it is."""

    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peftkit.errors import MethodError

        if not head:
            raise MethodError(
                f"{type(model).__name__} has no head to train for this task",
                "use LoRA, or a task with a head such as TextClassification",
            )
        train_only(model, head)
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.trained_layout import save_trained

        save_trained(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.trained_layout import load_trained, parameters_of

        return load_trained(model, folder, parameters_of(model, head))
