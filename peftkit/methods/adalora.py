"""AdaLoRA: Adaptive Budget Allocation for Parameter-Efficient Fine-Tuning (Zhang et al. 2023,
arXiv:2303.10512).

    h = W x + (lora_alpha / init_r) B diag(E) A x       A: (r, in), E: (r,), 0 at first, B: (out, r)
    penalty: orth_reg_weight * mean over A, B of ||A A^T - I||_F, ||B^T B - I||_F

Every layer starts with rank `init_r`. Between the first `tinit` and the last `tfinal` steps, the
singular values E that matter least for the loss are set to zero. The average layer ends with
`target_r` values that are not zero; only these are saved, so ranks differ between layers. Only
weights of the last `tfinal` steps, in which ranks no longer change, can be chosen as the best.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from pydantic import Field, model_validator

from peftkit.methods.method import Layout, Method
from peftkit.methods.peft.types import ADAPTER_NAME
from peftkit.methods.stored import StoredByPeft
from peftkit.methods.targets.targets import Blocks, LinearTargets, Parents, check_blocks

if TYPE_CHECKING:
    import torch
    from torch import nn

    from peftkit.data.encoded import Encoded

WARM_UP = 0.1
"""Default of `tinit`, as a share of the run's steps; the paper sets it by hand for each task."""
LAST_PHASE = 0.3
"""Default of `tfinal`, as a share of the run's steps; the paper sets it by hand for each task."""
UNKNOWN_STEPS = 2**31
"""Placeholder for PEFT's `total_step`; the first training step sets the real number of steps."""


class AdaLoRA(StoredByPeft):
    """LoRA that ends with higher ranks in the layers that matter more for the loss."""

    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    init_r: int = Field(default=12, ge=1)
    """Rank of every layer at the start; one and a half times `target_r` in the paper."""
    target_r: int = Field(default=8, ge=1)
    """Average rank of the layers at the end."""
    lora_alpha: float = Field(default=16, gt=0)
    """The update is scaled by `lora_alpha / init_r`."""
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
    tinit: int | None = Field(default=None, ge=0)
    """Number of first steps in which ranks do not fall; by default a tenth of the run."""
    tfinal: int | None = Field(default=None, ge=0)
    """Number of last steps, in which ranks no longer change; by default three tenths of the run."""
    deltaT: int = Field(default=1, ge=1)
    """Number of steps from one allocation of ranks to the next."""
    beta1: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the moving average of the loss's sensitivity to each parameter."""
    beta2: float = Field(default=0.85, gt=0, lt=1)
    """Decay of the moving average of the uncertainty in the loss's sensitivity."""
    orth_reg_weight: float = Field(default=0.5, ge=0)
    """Factor on the penalty that keeps A and B orthogonal."""

    @model_validator(mode="after")
    def _check_fields(self) -> Self:
        if self.target_r > self.init_r:
            raise ValueError(
                f"`target_r` {self.target_r} is above `init_r` {self.init_r}, and ranks only fall"
            )
        check_blocks(self.target_modules, self.layers_to_transform, self.layers_pattern)
        return self

    def in_every_block(self) -> Method:
        return self.with_(layers_to_transform=(), layers_pattern=())

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        from peftkit.methods.targets.layers import note_on_left_out

        return note_on_left_out(model, self.target_modules, head, "ADALORA")

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import AdaLoraConfig

        from peftkit.methods.peft.injection import fan_in_fan_out, modules_to_save
        from peftkit.methods.peft.layers import lora_layers
        from peftkit.methods.targets.checked_targets import linear_targets
        from peftkit.methods.targets.layers import excluded_modules
        from peftkit.methods.targets.matching import inject_checked

        config = AdaLoraConfig(
            task_type=encoded.head.task_type,
            init_r=self.init_r,
            target_r=self.target_r,
            lora_alpha=self.lora_alpha,  # type: ignore[arg-type]  # PEFT takes floats too
            lora_dropout=self.lora_dropout,
            target_modules=linear_targets(
                model, self.target_modules, head, "ADALORA", blocks=self.layers_to_transform
            ),
            layers_to_transform=list(self.layers_to_transform) or None,
            layers_pattern=list(self.layers_pattern) or None,
            exclude_modules=excluded_modules(model, self.target_modules, head, "ADALORA"),
            modules_to_save=modules_to_save(encoded.head.task_type, head),
            fan_in_fan_out=fan_in_fan_out(model),
            deltaT=self.deltaT,
            beta1=self.beta1,
            beta2=self.beta2,
            orth_reg_weight=self.orth_reg_weight,
            total_step=UNKNOWN_STEPS,
        )
        fields = {"target_modules", "layers_to_transform", "layers_pattern"}
        injected = inject_checked(model, config, self.model_dump(include=fields))
        # on a bfloat16 base PEFT would train `ranknum`, which holds the rank
        layer: Any  # SVDLinear
        for layer in lora_layers(injected).values():
            layer.ranknum[ADAPTER_NAME].requires_grad_(False)
        return injected

    def refuses_steps(self, num_steps: int) -> str | None:
        tinit, tfinal = self._phases(num_steps)
        if max(tinit, 1) + tfinal < num_steps:  # the first step only measures
            return None
        return (
            f"`method.tinit` {tinit} and `method.tfinal` {tfinal} leave no step of the run's "
            f"{num_steps} for the ranks to fall; leave them out, or train for longer"
        )

    def first_selectable_step(self, num_steps: int) -> int:
        return num_steps - self._phases(num_steps)[1]

    def after_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        tuner: Any = model.base_model
        config = tuner.peft_config[ADAPTER_NAME]
        if config.total_step == UNKNOWN_STEPS:
            config.total_step = num_steps
            config.tinit, config.tfinal = self._phases(num_steps)
        tuner.update_and_allocate(step)

    def _phases(self, num_steps: int) -> tuple[int, int]:
        """Returns `tinit` and `tfinal` in steps, with their defaults filled in."""
        tinit = round(WARM_UP * num_steps) if self.tinit is None else self.tinit
        tfinal = round(LAST_PHASE * num_steps) if self.tfinal is None else self.tfinal
        return tinit, tfinal

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        import torch

        from peftkit.methods.peft.layers import lora_layers

        if not self.orth_reg_weight:
            return None
        distances = []
        layer: Any  # SVDLinear
        for layer in lora_layers(model).values():
            a, b = layer.lora_A[ADAPTER_NAME], layer.lora_B[ADAPTER_NAME]
            for part in (a, b.T):  # (r, in or out)
                identity = torch.eye(len(part), device=part.device)
                distances.append(torch.linalg.norm(part @ part.T - identity))
        return self.orth_reg_weight * torch.stack(distances).mean()

    def refuses_start(self) -> str | None:
        return "a saved AdaLoRA has allocated its ranks, and cannot allocate them again; use LoRA"

    def save(self, model: nn.Module, folder: Path) -> None:
        """Saves the adapter without the ranks whose singular value E is zero."""
        from peftkit.methods.peft.layers import lora_layers
        from peftkit.methods.peft.layout import save_peft

        config: Any = model.peft_config[ADAPTER_NAME]  # type: ignore[index]
        layers: Mapping[str, Any] = lora_layers(model)
        config.rank_pattern = {
            f"{name}.lora_E": kept.flatten().tolist()
            for name, layer in layers.items()
            if (kept := layer.lora_E[ADAPTER_NAME] != 0).any()
        }
        save_peft(model, folder)
