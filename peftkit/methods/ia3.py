"""IA3: Infused Adapter by Inhibiting and Amplifying Inner Activations (Liu et al. 2022,
arXiv:2205.05638).

    k <- l_k * k,  v <- l_v * v        l_k, l_v: one factor for each output of key and value
    W_2 (l_ff * f(W_1 x))              l_ff: one factor for each input of the second layer

All factors start at one; the paper trains them with a learning rate of 3e-3. PEFT's defaults differ
from the paper: in most decoders they scale queries instead of keys, and in BERT also the attention
output. peftkit follows the paper, but scales a whole matrix if it holds queries, keys and values
(GPT-2, Phi-3).
"""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from pydantic import model_validator

from peftkit.bases.base import Base
from peftkit.methods.method import Layout
from peftkit.methods.stored import StoredByPeft
from peftkit.methods.targets.checked_targets import linear_targets
from peftkit.methods.targets.targets import Targets

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.encoded import Encoded

FAMILIES: Final = (
    # keys; values; second layer of the feed-forward sublayer
    (r".*self_attn\.k_proj", r".*self_attn\.v_proj", r".*mlp\.down_proj"),  # Llama, Qwen, Gemma
    (r".*self_attn\.qkv_proj", r".*mlp\.down_proj"),  # Phi-3, one matrix for q, k and v
    (r".*\.self\.key", r".*\.self\.value", r".*layer\.\d+\.output\.dense"),  # BERT, RoBERTa
    (r".*attn\.c_attn", r".*mlp\.c_proj"),  # GPT-2, one matrix for q, k and v
    (r".*Attention\.k", r".*Attention\.v", r".*DenseReluDense\.wo"),  # T5
    (r".*\.self\.key_proj", r".*\.self\.value_proj", r".*layer\.\d+\.output\.dense"),  # DeBERTa
    (r".*\.k_lin", r".*\.v_lin", r".*\.lin2"),  # DistilBERT
    (r".*attn\.Wqkv", r".*mlp\.Wo"),  # ModernBERT
    (r".*attn\.k_proj", r".*attn\.v_proj", r".*\.fc2"),  # OPT, BART
    (r".*attention\.query_key_value", r".*mlp\.dense_4h_to_h"),  # BLOOM, GPT-NeoX
)


class IA3(StoredByPeft):
    """Trains factors on keys, values and the hidden activations of the feed-forward sublayers."""

    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    target_modules: Targets = ""
    """Layers to scale, including `feedforward_modules`. If empty, the paper's layers are scaled;
    this works for Llama, BERT, GPT-2, T5, OPT, BART, BLOOM and their families."""
    feedforward_modules: Targets = ""
    """Layers of `target_modules` to scale at their input instead of their output."""

    @model_validator(mode="after")
    def _check_feedforward(self) -> Self:
        if self.feedforward_modules and not self.target_modules:
            raise ValueError("`feedforward_modules` must be among `target_modules`; give both")
        return self

    def refuses_merging(self, base: Base) -> str | None:
        if base.quantization == "none":
            return None
        return (
            f"IA3 multiplies whole rows of a weight, and PEFT cannot fold that into "
            f"{base.quantization} weights; keep the adapter, train IA3 on an unquantized base, or "
            f"use LoRA, which merges into the dequantized {base.quantization} weights"
        )

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        from peft import IA3Config

        from peftkit.methods.peft.injection import fan_in_fan_out, modules_to_save
        from peftkit.methods.targets.layers import excluded_modules
        from peftkit.methods.targets.matching import inject_checked

        targets, feedforward = self._layers(model, head)
        config = IA3Config(
            task_type=encoded.head.task_type,
            target_modules=targets,
            feedforward_modules=feedforward,
            exclude_modules=excluded_modules(model, self.target_modules, head, "IA3"),
            modules_to_save=modules_to_save(encoded.head.task_type, head),
            fan_in_fan_out=fan_in_fan_out(model),
        )
        settings = self.model_dump(include={"target_modules", "feedforward_modules"})
        injected = inject_checked(model, config, settings)
        float_norms_on_cpu(injected)
        return injected

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        loaded = super().load(model, folder, head)
        float_norms_on_cpu(loaded)
        return loaded

    def undecayed(self, model: nn.Module) -> Collection[str]:
        """Returns names of the factors, (1, out) or (in, 1), whose neutral value is one."""
        return [name for name, _ in model.named_parameters() if ".ia3_l." in name]

    def _layers(self, model: nn.Module, head: tuple[str, ...]) -> tuple[Any, Any]:
        """Returns the choice of all layers to scale, and the choice of layers to scale at their
        input instead of their output. Each choice is a list of names or a pattern.
        """
        from peftkit.bases.architectures import complete_family
        from peftkit.errors import MethodError

        if self.target_modules:
            return (
                linear_targets(model, self.target_modules, head, "IA3"),
                linear_targets(
                    model, self.feedforward_modules, head, "IA3", "method.feedforward_modules"
                )
                or [],
            )
        family = complete_family(model, FAMILIES)
        if family is None:
            raise MethodError(
                f"the key, value and second feed-forward layers of {type(model).__name__} are not "
                "known",
                "give `method.target_modules` and `method.feedforward_modules`, or use LoRA",
            )
        return "|".join(family), family[-1]


def float_norms_on_cpu(model: nn.Module) -> None:
    """Makes the norms of a quantized model float32 if it is on a CPU. There PEFT's layers return
    float32 even under autocast, and a bfloat16 norm does not accept float32.
    """
    from peftkit.methods.trained_layout import float_norms

    weight = next(model.parameters())
    if getattr(model, "is_quantized", False) and weight.device.type == "cpu":
        float_norms(model, [name for name, _ in model.named_parameters()])
