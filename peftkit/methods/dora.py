"""DoRA: Weight-Decomposed Low-Rank Adaptation (Liu et al. 2024, arXiv:2402.09353).

    h = m (W + s B A) / ||W + s B A|| x        m: (out,), ||W|| at the start; norms over rows

Trains two parts of a weight separately: its magnitude m, and its direction through A and B. PEFT
treats the norm as a constant in the backward pass, as section 4.3 of the paper does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.bases.base import Base
from peftkit.methods.lora import LoRA, inject_lora

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head


class DoRA(LoRA):
    """LoRA with a trained magnitude for each output."""

    def refuses(self, head: Head, base: Base) -> str | None:
        if base.quantization != "int8":
            return None
        return (
            "DoRA needs the norm of each row of a weight, and PEFT has no DoRA layer for int8; "
            'use DoRA with `base.quantization = "nf4"`, or LoRA on int8'
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        return inject_lora(self, model, encoded, head, use_dora=True)
