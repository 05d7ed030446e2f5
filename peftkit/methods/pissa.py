"""PiSSA: Principal Singular Values and Singular Vectors Adaptation (Meng et al. 2024,
arXiv:2404.02948).

    W = U S V^T,  A_0 = sqrt(S_r / s) V_r^T,  B_0 = U_r sqrt(S_r / s)        the r largest of S
    h = (W - s B_0 A_0) x + s B A x                                    A, B start at A_0, B_0

LoRA that starts from the principal part of W, and so trains that part. It is saved as an ordinary
LoRA of rank 2r for the unchanged base (appendix C of the paper).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import Field

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


class PiSSA(LoRA):
    """LoRA initialised with the largest singular values of each weight."""

    niter: int = Field(default=0, ge=0)
    """Number of subspace iterations of a randomised SVD; 16 is accurate and, on large layers, much
    faster than the exact SVD. 0 computes the exact SVD."""

    def refuses(self, head: Head, base: Base) -> str | None:
        return split_refusal(self, base)

    def refuses_start(self) -> str | None:
        return start_refusal(self.kind())

    def cost_proxy(self) -> Method:
        return double_rank(self)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        kind = f"pissa_niter_{self.niter}" if self.niter else "pissa"

        def start(layer: Any) -> None:
            layer.pissa_init(ADAPTER_NAME, kind)

        return inject_from_weights(self, model, encoded, head, start)

    def save(self, model: nn.Module, folder: Path) -> None:
        save_from_weights(model, folder)
