"""LayerNorm tuning: Tuning LayerNorm in Attention (Zhao et al. 2023, arXiv:2312.11420).

    h = w * (x - mean) / std + b        w and b trained, in every norm of the base

Root-mean-square norms, as in Llama, have w only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftkit.methods.method import Layout
from peftkit.methods.stored import StoredByPeft

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class LayerNormTuning(StoredByPeft):
    """Trains the head, and the weights and biases of all normalization layers."""

    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import LNTuningConfig

        from peftkit.errors import MethodError
        from peftkit.methods.peft.injection import inject_peft, modules_to_save

        norms = [  # full names: other modules of ModernBERT have the same last name
            name
            for name, module in model.named_modules()
            if "norm" in type(module).__name__.lower()
            and any(True for _ in module.parameters(recurse=False))
            and not name.startswith(head)
        ]
        if not norms:
            raise MethodError(f"{type(model).__name__} has no normalization layers", "use LoRA")
        config = LNTuningConfig(
            task_type=encoded.head.task_type,
            target_modules=norms,
            exclude_modules=list(head) or None,
            modules_to_save=modules_to_save(encoded.head.task_type, head),
        )
        return inject_peft(model, config)
