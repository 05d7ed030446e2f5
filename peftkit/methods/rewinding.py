"""Rewinding: a trained adapter at a smaller strength, between its base and what it became.

    t(s) = t_0 + s (t - t_0)        s = 1: as it was trained;  s = 0: the base

t is a trained tensor, t_0 what it is where the adapter has no effect. Of weights that were trained
themselves this is WiSE-FT (Wortsman et al. 2022, arXiv:2109.01903), t_0 being the base's; of a LoRA
it is W + s (scale B A), t being B and t_0 zero; of a factor of IA3 t_0 is one. Of DoRA, B goes to
zero and the magnitude to the norm of W. A head, and what is not named, stays as it was trained.
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
"""Name of a parameter of a loaded model -> t_0."""

PEFT_STARTS: dict[str, dict[str, float]] = {
    "LORA": {"lora_B": 0.0, "lora_embedding_B": 0.0},
    "ADALORA": {"lora_B": 0.0},
    "IA3": {"ia3_l": 1.0},
    "BOTTLENECK": {"bottleneck_up": 0.0},
    "LOHA": {"hada_w1_a": 0.0},  # (w1_a w1_b) * (w2_a w2_b)
    "LOKR": {"lokr_w1": 0.0, "lokr_w1_a": 0.0},  # w1, or w1_a w1_b, (x) w2
    "OFT": {"oft_R": 0.0},  # of which the rotation is made; zero is none
    "VERA": {"vera_lambda_b": 0.0},
}
"""Type of PEFT -> part of the names of those of its tensors that carry the strength -> t_0."""
REWOUND = (*PEFT_STARTS, "LN_TUNING")
"""Tuners of PEFT that can be rewound."""


class Rewinding:
    """What of a loaded model is moved between the base and what was trained.

    Args:
        starts: as `Method.starts` gives them.
        added_ids: tokens that the base did not know, whose embeddings stay as they were trained.
    """

    def __init__(self, model: Any, starts: Starts, added_ids: Sequence[int] = ()) -> None:
        parameters = dict(model.named_parameters())
        outer = (model.get_input_embeddings(), model.get_output_embeddings())
        vocabularies = [getattr(layer, "weight", None) for layer in outer if layer is not None]
        self._moved: list[tuple[nn.Parameter, Tensor, Tensor]] = []
        for name, start in starts.items():
            parameter = parameters[name]
            trained = parameter.detach().clone()
            begun = torch.as_tensor(start, dtype=trained.dtype, device=trained.device)
            begun = begun.expand_as(trained)
            if added_ids and any(parameter is weight for weight in vocabularies):
                begun = begun.clone()
                begun[list(added_ids)] = trained[list(added_ids)]
            self._moved.append((parameter, trained, begun))

    @torch.no_grad()
    def to(self, scale: float) -> None:
        """Gives the model a strength; 1 is what was trained and 0 the base, to the last bit."""
        for parameter, trained, start in self._moved:
            between = torch.lerp(start.float(), trained.float(), scale)
            parameter.data.copy_({0.0: start, 1.0: trained}.get(scale, between))


def peft_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """Of a model with one adapter of PEFT.

    Raises:
        MethodError: its type is neither in `PEFT_STARTS` nor LN_TUNING.
    """
    config: Any = model.peft_config[ADAPTER_NAME]  # type: ignore[index]
    kind = kind_of(config)
    if kind == "LN_TUNING":
        return _norm_starts(model)
    if kind not in PEFT_STARTS:
        raise MethodError(f"what of PEFT's {kind} carries its strength is not known")
    found: dict[str, Tensor | float] = {}
    for name, _ in model.named_parameters():
        for part, start in PEFT_STARTS[kind].items():
            if part in name.split("."):
                found[name] = start
    return {**found, **_dora_starts(model)}


def _norm_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """PEFT keeps the base's norm beside the trained copy."""
    part, own = ".ln_tuning_layers.default.", ".base_layer."
    named = dict(model.named_parameters())
    return {name: named[name.replace(part, own)] for name in named if part in name}


def _dora_starts(model: nn.Module) -> dict[str, Tensor | float]:
    """Magnitudes that are the norms of the base's weights, as PEFT computes them."""
    from peft.utils.integrations import dequantize_module_weight

    found: dict[str, Tensor | float] = {}
    part = ".lora_magnitude_vector.default"
    for name, vector in list(model.named_modules()):
        if name.endswith(part):
            layer: Any = model.get_submodule(name.removesuffix(part))
            weight = dequantize_module_weight(layer.get_base_layer()).detach()
            norm: Any = vector.get_weight_norm
            found[f"{name}.weight"] = norm(weight, weight.new_zeros(()), 1.0)
    return found


def base_starts(base: LoadedModel, names: Sequence[str]) -> dict[str, Tensor | float]:
    """Of parameters of the base that were trained in their place, but for those of the head."""
    below = tuple(f"{module}." for module in base.head)
    parameters = dict(base.model.named_parameters())
    return {name: parameters[name].detach() for name in names if not name.startswith(below)}
