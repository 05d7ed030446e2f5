"""Rewinding: applies a trained adapter at a smaller strength, between the base and full strength.

    t(s) = t_0 + s (t - t_0)        s = 1: as trained;  s = 0: the base

t is a trained tensor, t_0 the value at which it has no effect. For trained base weights, t_0 is the
base's weight (WiSE-FT, Wortsman et al. 2022, arXiv:2109.01903). For LoRA, only B moves, and its t_0
is zero, which gives W + s (scale B A). For IA3's factors, t_0 is one. For DoRA, t_0 of B is zero,
and t_0 of the magnitude is the norm of W. Other tensors, and the head, keep their trained values.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.bases.loaded_model import LoadedModel
from peftkit.errors import MethodError
from peftkit.methods.peft.types import ADAPTER_NAME, kind_of

Starts = Mapping[str, Tensor | float]
"""Parameter name in a loaded model -> t_0, the value at which it has no effect."""

PEFT_STARTS: dict[str, dict[str, float]] = {
    "LORA": {"lora_B": 0.0, "lora_embedding_B": 0.0},
    "ADALORA": {"lora_B": 0.0},
    "IA3": {"ia3_l": 1.0},
    "BOTTLENECK": {"bottleneck_up": 0.0},
    "LOHA": {"hada_w1_a": 0.0},  # (w1_a w1_b) * (w2_a w2_b)
    "LOKR": {"lokr_w1": 0.0, "lokr_w1_a": 0.0},  # w1, or w1_a w1_b, (x) w2
    "OFT": {"oft_R": 0.0},  # zero gives no rotation
    "VERA": {"vera_lambda_b": 0.0},
}
"""Tuner of PEFT -> (part of a tensor's name -> its t_0), for the tensors that scale the adapter."""
REWOUND = (*PEFT_STARTS, "LN_TUNING")
"""PEFT's tuners that can be rewound."""


class Rewinding:
    """Sets the trained tensors of a loaded model to values between t_0 and t.

    Args:
        starts: t_0 by parameter name, from `Method.neutral_values`.
        added_ids: ids of added tokens, whose embeddings keep their trained values.
    """

    def __init__(self, model: Any, starts: Starts, added_ids: Sequence[int] = ()) -> None:
        parameters = dict(model.named_parameters())
        outer = (model.get_input_embeddings(), model.get_output_embeddings())
        vocabularies = [getattr(layer, "weight", None) for layer in outer if layer is not None]
        self._moved: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, start in starts.items():
            parameter = parameters[name]
            trained = parameter.detach().clone()
            neutral = torch.as_tensor(start, dtype=trained.dtype, device=trained.device)
            neutral = neutral.expand_as(trained)
            if added_ids and any(parameter is weight for weight in vocabularies):
                neutral = neutral.clone()
                neutral[list(added_ids)] = trained[list(added_ids)]
            self._moved.append((parameter, trained, neutral))

    @torch.no_grad()
    def to(self, scale: float) -> None:
        """Sets the strength: 1 gives exactly the trained tensors, 0 exactly their t_0."""
        for parameter, trained, start in self._moved:
            between = torch.lerp(start.float(), trained.float(), scale)
            parameter.data.copy_({0.0: start, 1.0: trained}.get(scale, between))


def peft_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """Returns parameter name -> t_0, for a model with one PEFT adapter.

    Raises:
        MethodError: the adapter's type is neither in `PEFT_STARTS` nor LN_TUNING.
    """
    config: Any = model.peft_config[ADAPTER_NAME]  # type: ignore[index]
    kind = kind_of(config)
    if kind == "LN_TUNING":
        return _norm_starts(model)
    if kind not in PEFT_STARTS:
        raise MethodError(f"the tensors that scale PEFT's {kind} are not known")
    starts: dict[str, Tensor | float] = {}
    for name, _ in model.named_parameters():
        for part, start in PEFT_STARTS[kind].items():
            if part in name.split("."):
                starts[name] = start
    return {**starts, **_dora_starts(model)}


def _norm_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """Returns parameter name -> t_0 for LN_TUNING: the untrained norms, which PEFT keeps."""
    trained, base = ".ln_tuning_layers.default.", ".base_layer."
    parameters = dict(model.named_parameters())
    return {n: parameters[n.replace(trained, base)] for n in parameters if trained in n}


def _dora_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """Returns parameter name -> t_0 for DoRA's magnitudes: the row norms of the base's weights."""
    from peft.utils.integrations import dequantize_module_weight

    starts: dict[str, Tensor | float] = {}
    part = ".lora_magnitude_vector.default"
    for name, vector in list(model.named_modules()):
        if name.endswith(part):
            layer: Any = model.get_submodule(name.removesuffix(part))
            weight = dequantize_module_weight(layer.get_base_layer()).detach()
            norm: Any = vector.get_weight_norm
            starts[f"{name}.weight"] = norm(weight, weight.new_zeros(()), 1.0)
    return starts


def base_starts(base: LoadedModel, names: Sequence[str]) -> dict[str, Tensor | float]:
    """Returns parameter name -> t_0 for the base's trained parameters: values before training."""
    below = tuple(f"{module}." for module in base.head)
    parameters = dict(base.model.named_parameters())
    return {name: parameters[name].detach() for name in names if not name.startswith(below)}
