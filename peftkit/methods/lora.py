"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv:2106.09685).

    h = W x + s B A x        A: (r, in), normal;  B: (out, r), zero at the start
    s = lora_alpha / r       or lora_alpha / sqrt(r)  (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)
    lr(B) = loraplus_lr_ratio * lr(A)                 (LoRA+, Hayou et al. 2024, arXiv:2402.12354)

W stays frozen. All linear layers are adapted by default: at equal parameters that beats
attention only (Biderman et al. 2024, arXiv:2405.09673; "LoRA Without Regret", Thinking Machines
2025, which also finds the best learning rate about ten times that of full fine-tuning).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.methods.method import Layout, trainable_parameters
from peftkit.methods.stored import _StoredByPeft
from peftkit.methods.targets import LinearTargets

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded


class LoRA(_StoredByPeft):
    """Trains a low-rank update beside each targeted linear layer."""

    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    r: int = Field(default=8, ge=1, le=2**16)
    """Rank of the update."""
    lora_alpha: float = Field(default=16, gt=0)
    """The update is scaled by `lora_alpha / r`."""
    lora_dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the input of A."""
    target_modules: LinearTargets = "all-linear"
    """Names of the layers, a regular expression over full names, or `all-linear`: every linear
    layer but the head."""
    use_rslora: bool = False
    """Scale by `lora_alpha / sqrt(r)`, which keeps large ranks learning (arXiv:2312.03732)."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1)
    """Learning rate of B over that of A; the paper advises about 16 (arXiv:2402.12354)."""

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        return inject_lora(self, model, encoded, head)

    def learning_rate_scales(self, model: nn.Module) -> Mapping[str, float]:
        names = (name for name in trainable_parameters(model) if ".lora_B." in name)
        return dict.fromkeys(names, self.loraplus_lr_ratio)


def inject_lora(
    lora: LoRA, model: nn.Module, encoded: Encoded, head: tuple[str, ...], **options: Any
) -> nn.Module:
    """The model with LoRA layers of this size and place.

    Args:
        options: further fields of PEFT's `LoraConfig`, by which a variant differs from LoRA.
    """
    from peft import LoraConfig

    from peftkit.methods.lora_linear import Linear
    from peftkit.methods.peft_layout import fan_in_fan_out, inject_peft, modules_to_save
    from peftkit.methods.targets import linear_targets

    config = LoraConfig(
        task_type=encoded.head.task_type,
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # PEFT takes floats too
        lora_dropout=lora.lora_dropout,
        target_modules=linear_targets(model, lora.target_modules, head),
        use_rslora=lora.use_rslora,
        exclude_modules=list(head) or None,
        modules_to_save=modules_to_save(head),
        fan_in_fan_out=fan_in_fan_out(model),
        **options,
    )
    if not options:  # a variant computes something else
        Linear.place(config)
    return inject_peft(model, config)
