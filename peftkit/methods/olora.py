"""OLoRA: Orthonormal Low-Rank Adaptation (Büyükakyüz 2024, arXiv:2406.01775).

    W = Q R,  B_0 = Q_r,  A_0 = R_r                the first r columns of Q and rows of R
    h = (W - s B_0 A_0) x + s B A x                A, B start at A_0, B_0

LoRA that starts from an orthonormal basis of W. Like PiSSA, it is saved as an ordinary LoRA of rank
2r for the unchanged base.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.bases.base import Base
from peftkit.methods.from_weights import (
    double_rank,
    inject_from_weights,
    save_from_weights,
    split_refusal,
)
from peftkit.methods.lora import LoRA
from peftkit.methods.method import Method
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.reasons import start_refusal

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head


class OLoRA(LoRA):
    """LoRA initialised with an orthonormal basis of each weight."""

    def refuses(self, head: Head, base: Base) -> str | None:
        return split_refusal(self, base)

    def refuses_start(self) -> str | None:
        return start_refusal(self.kind())

    def cost_proxy(self) -> Method:
        return double_rank(self)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peftkit.errors import MethodError
        from peftkit.methods.peft.injection import fan_in_fan_out

        if fan_in_fan_out(model):
            raise MethodError(
                f"{type(model).__name__} stores its weights transposed (Conv1D), and PEFT's OLoRA "
                "cannot decompose them",
                "use PiSSA or LoRA",
            )

        def start(layer: Any) -> None:
            layer.olora_init(ADAPTER_NAME)

        return inject_from_weights(self, model, encoded, head, start)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_from_weights(model, folder)
