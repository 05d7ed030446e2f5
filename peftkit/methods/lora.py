"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv:2106.09685).

    h = W x + (lora_alpha / r) B A x        A: (r, in), normal;  B: (out, r), zero at the start

W stays frozen. All linear layers are adapted by default: at equal parameters that beats
attention only (Biderman et al. 2024, arXiv:2405.09673; "LoRA Without Regret", Thinking Machines
2025, which also finds the best learning rate about ten times that of full fine-tuning).
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, field_validator

from peftkit.methods.method import Layout, Method

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class LoRA(Method):
    """Trains a low-rank update beside each targeted linear layer."""

    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    r: int = Field(default=8, ge=1, le=2**16)
    """Rank of the update."""
    lora_alpha: float = Field(default=16, gt=0)
    """The update is scaled by `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of A."""
    target_modules: str | tuple[str, ...] = "all-linear"
    """Names of the layers, a regular expression over full names, or `all-linear`: every linear
    layer but the head."""

    @field_validator("target_modules")
    @classmethod
    def _names_or_pattern(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        """A single plain name is a list of one; PEFT would match it as a pattern, in vain."""
        if not value:
            raise ValueError("names no layer; `all-linear` takes every linear layer")
        if isinstance(value, str) and value != "all-linear":
            if value.isidentifier():
                return (value,)
            try:
                re.compile(value)
            except re.error as error:
                raise ValueError(f"is no regular expression: {error}") from error
        return value

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import LoraConfig
        from torch import nn
        from transformers.pytorch_utils import Conv1D

        from peftkit.methods.peft_layout import beyond_peft, check_targets, inject_peft

        targets: Any = self.target_modules
        if not isinstance(targets, str):
            check_targets(model, targets, head, (nn.Linear, nn.Embedding, nn.Conv2d, Conv1D))
            targets = list(targets)
        config = LoraConfig(
            task_type=encoded.head.task_type,
            r=self.r,
            lora_alpha=self.lora_alpha,  # type: ignore[arg-type]  # PEFT takes floats too
            lora_dropout=self.lora_dropout,
            target_modules=targets,
            exclude_modules=list(head) or None,
            modules_to_save=beyond_peft(head),
            # Conv1D (GPT-2) stores its weight transposed
            fan_in_fan_out=any(isinstance(module, Conv1D) for module in model.modules()),
        )
        return inject_peft(model, config)

    def save(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.peft_layout import save_peft

        save_peft(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft_layout import load_peft

        return load_peft(model, folder)
