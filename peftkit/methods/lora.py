"""LoRA: Low-Rank Adaptation of Large Language Models (Hu et al. 2021, arXiv:2106.09685).

    h = W x + s B A x        A: (r, in), normal;  B: (out, r), zero at the start
    s = lora_alpha / r       or lora_alpha / sqrt(r)  (rsLoRA, Kalajdzievski 2023, arXiv:2312.03732)
    lr(B) = loraplus_lr_ratio * lr(A)                 (LoRA+, Hayou et al. 2024, arXiv:2402.12354)

W stays frozen. All linear layers are adapted by default. With equally many trained parameters, this
beats adapting only attention (Biderman et al. 2024, arXiv:2405.09673; "LoRA Without Regret",
Thinking Machines 2025). "LoRA Without Regret" also finds that LoRA's best learning rate is about
ten times as high as full fine-tuning's.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from peftkit.methods.method import Layout, Method, trainable_parameters
from peftkit.methods.stored import StoredByPeft
from peftkit.methods.targets.targets import (
    Alphas,
    Blocks,
    LinearTargets,
    Parents,
    Ranks,
    check_blocks,
    without_blocks,
)

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.methods.fast_layers import FastLayer


class LoRA(StoredByPeft):
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
    """Layers to adapt: their names, a regular expression for full names, or `all-linear`, which
    means all linear layers except the head."""
    layers_to_transform: Blocks = ()
    """Numbers of the blocks to adapt, from 0; empty for all."""
    layers_pattern: Parents = ()
    """Names of the lists of blocks that `layers_to_transform` is for, such as `layers`; empty for
    all lists."""
    rank_pattern: Ranks = {}
    """Regular expression for the end of a layer's name -> the layer's rank instead of `r`; the
    first match counts."""
    alpha_pattern: Alphas = {}
    """Regular expression for the end of a layer's name -> the layer's alpha instead of
    `lora_alpha`."""
    use_rslora: bool = False
    """Whether to scale by `lora_alpha / sqrt(r)`, so that large ranks keep learning
    (arXiv:2312.03732)."""
    loraplus_lr_ratio: float = Field(default=1.0, ge=1)
    """Learning rate of B divided by the learning rate of A; the paper advises about 16
    (arXiv:2402.12354)."""

    @model_validator(mode="after")
    def _check_blocks(self) -> Self:
        check_blocks(self.target_modules, self.layers_to_transform, self.layers_pattern)
        return self

    def instead(self) -> str:
        return "name the layers to adapt with `method.target_modules`"

    def in_every_block(self) -> Method:
        return self.with_(
            layers_to_transform=(),
            layers_pattern=(),
            rank_pattern=without_blocks(self.rank_pattern),
            alpha_pattern=without_blocks(self.alpha_pattern),
        )

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        from peftkit.methods.targets.layers import note_on_left_out

        return note_on_left_out(model, self.target_modules, head)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        return inject_lora(self, model, encoded, head)

    def fast(self, model: nn.Module) -> Sequence[FastLayer]:
        from peftkit.methods.lora_linear import fused_lora_layers

        return fused_lora_layers(model)

    def learning_rate_scales(self, model: nn.Module) -> Mapping[str, float]:
        names = (name for name in trainable_parameters(model) if ".lora_B." in name)
        return dict.fromkeys(names, self.loraplus_lr_ratio)


def inject_lora(
    lora: LoRA, model: nn.Module, encoded: Encoded, head: tuple[str, ...], **options: Any
) -> nn.Module:
    """Returns the model with the LoRA layers that `lora` describes.

    Args:
        options: further fields of PEFT's `LoraConfig`, for a variant of LoRA.
    """
    from peft import LoraConfig

    from peftkit.methods.lora_linear import Linear
    from peftkit.methods.peft.injection import fan_in_fan_out, modules_to_save
    from peftkit.methods.targets.checked_targets import linear_targets
    from peftkit.methods.targets.layers import excluded_modules
    from peftkit.methods.targets.matching import inject_checked

    blocks = lora.layers_to_transform
    config = LoraConfig(
        task_type=encoded.head.task_type,
        r=lora.r,
        lora_alpha=lora.lora_alpha,  # type: ignore[arg-type]  # PEFT takes floats too
        lora_dropout=lora.lora_dropout,
        target_modules=linear_targets(model, lora.target_modules, head, blocks=blocks),
        layers_to_transform=list(blocks) or None,
        layers_pattern=list(lora.layers_pattern) or None,
        rank_pattern=dict(lora.rank_pattern),
        alpha_pattern=dict(lora.alpha_pattern),
        use_rslora=lora.use_rslora,
        exclude_modules=excluded_modules(model, lora.target_modules, head),
        modules_to_save=modules_to_save(encoded.head.task_type, head),
        fan_in_fan_out=fan_in_fan_out(model),
        **options,
    )
    if not options:  # variants of LoRA compute something else
        Linear.place(config)
    fields = {
        "target_modules", "layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern",
    }  # fmt: skip
    return inject_checked(model, config, lora.model_dump(include=fields))
