"""Bottleneck adapters for PEFT. Importing this module registers them as PEFT type `BOTTLENECK`;
then plain PEFT can load one:

    import peftkit.peft_plugin
    model = PeftModel.from_pretrained(base, "path/to/adapter")

    delta(x) = scaling * up(f(down(x)))     down: (m, d), up: (d, m), m = d / reduction_factor

    houlsby    y + delta(y)                      y: output of the attention and of the feed-forward
                                                 sublayer (Houlsby et al. 2019, arXiv:1902.00751)
    pfeiffer   h + delta(h)                      h: output of the whole block; in blocks that end in
                                                 a norm, norm(y + x + delta(norm(y + x)))
                                                 (Pfeiffer et al. 2021, arXiv:2005.00247)
    parallel   ffn(x) + delta(x)                 x: input of the feed-forward sublayer
                                                 (He et al. 2022, arXiv:2110.04366)

`up` starts at zero, so a new adapter changes nothing. Norm, `down` and `up` each have their own
ModuleDict (`bottleneck_norm`, `bottleneck_down`, `bottleneck_up`). If they were nested in one
module, PEFT would silently save and reload an adapter wrongly, unless its name is `default`.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, Literal

import torch
from peft.config import PeftConfig
from peft.mapping import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    PEFT_TYPE_TO_PREFIX_MAPPING,
    PEFT_TYPE_TO_TUNER_MAPPING,
)
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from torch import Tensor, nn
from transformers.activations import ACT2FN
from transformers.pytorch_utils import Conv1D

from peftkit.bases.architectures import complete_family

Placement = Literal["houlsby", "pfeiffer", "parallel"]


class _PeftTypeName(str):
    """A string that PEFT can use like a member of its enum `PeftType`."""

    __slots__ = ()

    @property
    def value(self) -> str:
        return str(self)


BOTTLENECK: Final = _PeftTypeName("BOTTLENECK")

FAMILIES: Final[dict[Placement, tuple[tuple[str, ...], ...]]] = {
    "houlsby": (
        (r".*\.layer\.\d+\.attention\.output\.dense", r".*\.layer\.\d+\.output\.dense"),  # BERT
        (r".*layers\.\d+\.self_attn\.o_proj", r".*layers\.\d+\.mlp\.down_proj"),  # Llama
        (r".*\bh\.\d+\.attn\.c_proj", r".*\bh\.\d+\.mlp\.c_proj"),  # GPT-2
        (r".*\.(SelfAttention|EncDecAttention)\.o", r".*\.DenseReluDense\.wo"),  # T5
        (r".*\.out_lin", r".*\.lin2"),  # DistilBERT
        (r".*\.attn\.Wo", r".*\.mlp\.Wo"),  # ModernBERT
        (r".*attn\.out_proj", r".*\.fc2"),  # OPT, BART
        (r".*attention\.dense", r".*\.mlp\.dense_4h_to_h"),  # BLOOM, GPT-NeoX
    ),
    "pfeiffer": (
        (r".*\.layer\.\d+\.output",),  # ends in a norm
        (r".*layers\.\d+",),
        (r".*\bh\.\d+",),
        (r".*(encoder\.block\.\d+\.layer\.1|decoder\.block\.\d+\.layer\.2)",),
    ),
    "parallel": (
        (r".*\.layer\.\d+\.output",),
        (r".*layers\.\d+\.mlp",),
        (r".*\bh\.\d+\.mlp",),
        (r".*\.DenseReluDense",),
        (r".*\.ffn",),  # DistilBERT
    ),
}
"""Placement -> for each model family, a tuple of patterns for the names of the modules to adapt.
The first four families are BERT (with RoBERTa, ELECTRA, DeBERTa), Llama (with Mistral, Qwen, Gemma,
SmolLM, Phi-3), GPT-2 and T5."""


@dataclass
class BottleneckConfig(PeftConfig):
    """Configuration of bottleneck adapters, saved as adapter_config.json."""

    placement: Placement = field(default="houlsby")
    reduction_factor: float = field(default=16)
    non_linearity: str = field(default="relu")
    scaling: float = field(default=1.0)
    ln_before: bool = field(default=False)
    target_modules: list[str] | str | None = field(default=None)
    exclude_modules: list[str] | str | None = field(default=None)
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()  # type: ignore[no-untyped-call]
        self.peft_type = BOTTLENECK
        for name, value, known in (
            ("placement", self.placement, FAMILIES),
            ("non_linearity", self.non_linearity, ACT2FN),
        ):
            if value not in known:
                raise ValueError(f"`{name}` is `{value}`, not one of {sorted(known)}")
        if self.reduction_factor <= 0:
            raise ValueError(f"`reduction_factor` is {self.reduction_factor}, not positive")


class BottleneckLayer(nn.Module, BaseTunerLayer):
    """A module of the base with bottleneck adapters at its input or output."""

    adapter_layer_names = ("bottleneck_norm", "bottleneck_down", "bottleneck_up")
    other_param_names = ("scaling", "activation")

    def __init__(
        self, base_layer: nn.Module, adapter_name: str, config: BottleneckConfig, width: int
    ) -> None:
        """Wraps a module and adds its first adapter.

        Args:
            width: length d of the adapted vectors.
        """
        super().__init__()
        self.base_layer = base_layer
        self.placement = config.placement
        self.width = width
        self.bottleneck_norm = nn.ModuleDict()
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.scaling: dict[str, float] = {}
        self.activation: dict[str, nn.Module] = {}
        self._active_adapter = adapter_name
        self.merged_adapters: list[str] = []
        self.update_layer(adapter_name, config)

    def update_layer(self, adapter_name: str, config: BottleneckConfig, **_: object) -> None:
        """Adds an adapter.

        Raises:
            ValueError: the module has an adapter with another placement.
        """
        if config.placement != self.placement:
            raise ValueError(
                f"this module has a {self.placement} adapter, and cannot take a {config.placement} "
                "one"
            )
        inner = max(1, round(self.width / config.reduction_factor))
        down, up = nn.Linear(self.width, inner), nn.Linear(inner, self.width)
        nn.init.zeros_(up.weight)
        nn.init.zeros_(up.bias)
        if config.ln_before:
            self.bottleneck_norm[adapter_name] = nn.LayerNorm(self.width)
        self.bottleneck_down[adapter_name] = down
        self.bottleneck_up[adapter_name] = up
        device = next(self.base_layer.parameters()).device
        for part in (self.bottleneck_norm, self.bottleneck_down, self.bottleneck_up):
            if adapter_name in part and not up.weight.is_meta:  # meta tensors get values later
                part[adapter_name].to(device)
        self.scaling[adapter_name] = config.scaling
        self.activation[adapter_name] = ACT2FN[config.non_linearity]
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Raises ValueError, since a bottleneck adapter cannot be merged."""
        raise ValueError("a bottleneck adapter is not linear, and cannot be merged into weights")

    def unmerge(self) -> None:
        """Does nothing, since nothing is ever merged."""

    def delta(self, x: Tensor) -> Tensor:
        """Returns the sum of the active adapters' outputs, with the shape (..., width) and dtype of
        `x`.
        """
        total = torch.zeros_like(x)
        for name in self.active_adapters:
            if name not in self.bottleneck_down:
                continue
            down: Any = self.bottleneck_down[name]
            up: Any = self.bottleneck_up[name]
            inner = x.to(down.weight.dtype)
            if name in self.bottleneck_norm:
                inner = self.bottleneck_norm[name](inner)
            change = up(self.activation[name](down(inner)))
            total = total + (self.scaling[name] * change).to(x.dtype)
        return total

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Returns the base module's output after the adapters have changed it; in a tuple, they
        change only the first item.
        """
        if self.disable_adapters or not any(
            n in self.bottleneck_down for n in self.active_adapters
        ):
            return self.base_layer(*args, **kwargs)
        if hasattr(self.base_layer, "LayerNorm") and self.placement != "houlsby":
            return self._forward_before_norm(*args, **kwargs)
        output = self.base_layer(*args, **kwargs)
        several = isinstance(output, tuple | list)
        hidden = output[0] if several else output
        read = hidden
        if self.placement == "parallel":
            read = args[0] if args else kwargs["hidden_states"]
        hidden = hidden + self.delta(read)
        return type(output)((hidden, *output[1:])) if several else hidden

    def _forward_before_norm(self, hidden_states: Tensor, input_tensor: Tensor) -> Tensor:
        """Runs a BERT-like block, norm(dense(hidden_states) + input_tensor), with its adapters."""
        block: Any = self.base_layer
        y = block.dropout(block.dense(hidden_states)) + input_tensor
        read = input_tensor if self.placement == "parallel" else block.LayerNorm(y)
        normed: Tensor = block.LayerNorm(y + self.delta(read))
        return normed

    def __getattr__(self, name: str) -> Any:
        """Returns an attribute of this layer, or of the base module if this layer lacks it."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            if name == "base_layer":
                raise
            return getattr(self.base_layer, name)


class BottleneckModel(BaseTuner):
    """The tuner that PEFT runs for `BottleneckConfig`."""

    prefix = "bottleneck_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}

    def _prepare_adapter_config(self, peft_config: Any, model_config: dict[str, Any]) -> Any:
        configs: list[Any] = list(self.peft_config.values())
        placements = sorted({config.placement for config in configs})
        if len(placements) > 1:
            raise ValueError(
                f"adapters of different placements, {' and '.join(placements)}, cannot be in one "
                "model: one would hide modules from the other"
            )
        if not peft_config.target_modules:
            family = complete_family(self.model, FAMILIES[peft_config.placement])
            peft_config.target_modules = "|".join(family or ())
        if not peft_config.target_modules:
            raise ValueError(
                f"no place is known for a {peft_config.placement} adapter in a "
                f"{model_config['model_type']} model; give `target_modules`"
            )
        return peft_config

    def _create_and_replace(
        self,
        peft_config: Any,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        if isinstance(target, BottleneckLayer):
            target.update_layer(adapter_name, peft_config)
            if adapter_name not in self.active_adapters:
                target.set_requires_grad(adapter_name, False)
            return
        layer = BottleneckLayer(target, adapter_name, peft_config, self._width(target))
        if adapter_name not in self.active_adapters:
            layer.requires_grad_(False)
        self._replace_module(parent, target_name, layer, target)

    def _width(self, target: nn.Module) -> int:
        if isinstance(target, Conv1D):
            return int(target.nf)
        config = self.model.config
        hidden_size = getattr(config, "get_text_config", lambda: config)().hidden_size
        return int(getattr(target, "out_features", hidden_size))


for mapping, entry in (
    (PEFT_TYPE_TO_CONFIG_MAPPING, BottleneckConfig),
    (PEFT_TYPE_TO_TUNER_MAPPING, BottleneckModel),
    (PEFT_TYPE_TO_PREFIX_MAPPING, BottleneckModel.prefix),
):
    registered: Any = mapping
    registered.setdefault(BOTTLENECK, entry)
