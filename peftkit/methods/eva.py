"""EVA: Explained Variance Adaptation (Paischer et al. 2024, arXiv:2410.07170).

    X = inputs of a layer on training rows,  X = U S V^T,  A = V_r^T,  B = 0
    h = W x + s B A x

LoRA that starts from the directions in which a layer's inputs vary most. Layers whose directions
explain more of this variance get a higher rank, up to `rho * r`. The base stays unchanged, so it
may be quantized.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Self

from pydantic import Field, model_validator

from peftkit.bases.base import Base
from peftkit.methods.lora import LoRA, inject_lora
from peftkit.methods.method import Method
from peftkit.methods.peft.types import ADAPTER_NAME

if TYPE_CHECKING:
    import torch
    from torch import nn

    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head

ROWS = 64
"""Number of training rows in one step of the incremental SVD."""
MOST_BATCHES = 200


class EVA(LoRA):
    """LoRA initialised with the directions in which each layer's inputs vary most."""

    rho: float = Field(default=2.0, ge=1)
    """Largest rank of a layer, divided by `r`; 1 gives every layer the same rank."""
    tau: float = Field(default=0.99, gt=0, lt=1)
    """A component counts as found if its cosine similarity between two SVD steps is above this."""

    @model_validator(mode="after")
    def _check_patterns(self) -> Self:
        if self.rank_pattern or self.alpha_pattern:
            raise ValueError(
                "EVA chooses each layer's rank from the data; leave `rank_pattern` and "
                "`alpha_pattern` out, or use LoRA"
            )
        return self

    def refuses(self, head: Head, base: Base) -> str | None:
        if head.task_type != "SEQ_2_SEQ_LM":
            return None
        return (
            "EVA analyses layers on the training texts alone, and a sequence-to-sequence decoder "
            "reads answers too; use PiSSA or LoRA"
        )

    def refuses_start(self) -> str | None:
        return "EVA chooses its ranks from the data and is saved as a LoRA; continue with LoRA"

    def cost_proxy(self) -> Method:
        shared = {name: getattr(self, name) for name in LoRA.model_fields}
        return LoRA(**shared)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import EvaConfig
        from peft.tuners.lora.eva import initialize_lora_eva_weights

        from peftkit.methods.peft.injection import is_rehearsal
        from peftkit.methods.peft.layers import check_rank, lora_layers

        if is_rehearsal(model):  # has no values to analyse, so every layer keeps rank `r`
            rehearsal = inject_lora(self, model, encoded, head)
            check_rank(rehearsal, round(self.rho * self.r))
            return rehearsal
        config = EvaConfig(rho=self.rho, tau=self.tau)
        with warnings.catch_warnings():  # PEFT advises `low_cpu_mem_usage`
            warnings.filterwarnings("ignore", "lora with eva initialization used with")
            injected = inject_lora(
                self, model, encoded, head, init_lora_weights="eva", eva_config=config
            )
            initialize_lora_eva_weights(
                injected,
                training_batches(encoded, next(injected.parameters()).device),
                forward_fn=limited_forward(),
                prepare_model_inputs_fn=None,
                prepare_layer_inputs_fn=layer_inputs,
                gather_distributed_inputs=False,  # every process reads the same rows
                show_progress_bar=False,
            )
        # PEFT shortens the names of the layers that have a rank; they would match other layers too
        tuned: Any = injected
        tuned.peft_config[ADAPTER_NAME].target_modules = set(lora_layers(injected))
        return injected


def layer_inputs(layer_input: Any, _: object, __: str) -> torch.Tensor:
    """Returns a layer's inputs as a matrix, (vectors, d)."""
    inputs: torch.Tensor = layer_input[0] if isinstance(layer_input, tuple) else layer_input
    return inputs.reshape(-1, inputs.shape[-1]).contiguous()


def training_batches(encoded: Encoded, device: torch.device) -> list[dict[str, torch.Tensor]]:
    """Returns batches of training rows without padding, which EVA would treat as data. Each batch
    holds rows of similar length, cut to the length of its shortest row.
    """
    import numpy as np
    import torch

    ids, segments = encoded.train.input_ids, encoded.train.inputs.get("token_type_ids")
    by_length = sorted(range(len(ids)), key=lambda index: len(ids[index]))
    batches = []
    for start in range(0, len(ids), ROWS):
        rows = by_length[start : start + ROWS]
        width = len(ids[rows[0]])

        def cut(values: Any) -> torch.Tensor:
            tensors = [torch.from_numpy(values[row][:width].astype(np.int64)) for row in rows]  # noqa: B023
            return torch.stack(tensors).to(device)

        batch = {"input_ids": cut(ids)}
        batch["attention_mask"] = torch.ones_like(batch["input_ids"])
        if segments is not None:
            batch["token_type_ids"] = cut(segments)
        batches.append(batch)
    order = torch.randperm(len(batches), generator=torch.Generator().manual_seed(0))
    return [batches[index] for index in order]


def limited_forward() -> Callable[[nn.Module, Mapping[str, torch.Tensor]], None]:
    """Returns a forward pass that raises MethodError after `MOST_BATCHES` calls, since PEFT's
    search for components might never end.
    """
    calls = 0

    def forward(model: nn.Module, inputs: Mapping[str, torch.Tensor]) -> None:
        from peftkit.errors import MethodError

        nonlocal calls
        calls += 1
        if calls > MOST_BATCHES:
            raise MethodError(
                f"EVA found no stable components in {MOST_BATCHES} batches of training rows",
                "lower `method.r`, `method.rho` or `method.tau`, or give more rows",
            )
        model(**inputs)

    return forward
