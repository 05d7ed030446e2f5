"""LoRA that starts from a part of the weight instead of from zero (PiSSA, OLoRA).

    W = W_res + s B_0 A_0,    h = W_res x + s B A x = W x + s [B, -B_0] [A; A_0] x

The papers subtract s B_0 A_0 from the base. The trained A and B then fit only W_res, which nobody
else has, and which bfloat16 rounds. Here the base keeps W, and a LoRA of rank 2r holds A and B as
trained halves, A_0 and -B_0 as frozen halves. It computes the same function with the same gradients
and is saved as an ordinary LoRA for the unchanged base. PEFT's own conversion
(`subtract_mutated_init` in 0.21) loses the classification head.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.bases.base import Base
from peftkit.methods.lora import LoRA, inject_lora
from peftkit.methods.peft.types import ADAPTER_NAME

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any

    from torch import nn

    from peftkit.data.encoded import Encoded


def split_refusal(lora: LoRA, base: Base) -> str | None:
    """Returns why `lora` cannot split the weights of this base into two parts; None if it can."""
    kind = lora.kind()
    if lora.lora_dropout:
        return (
            f"{kind} splits each weight into two parts, and dropout would act on only one of them; "
            "leave `method.lora_dropout` out, as its paper does, or use LoRA"
        )
    if base.quantization == "none":
        return None
    return (
        f"{kind} gains on {base.quantization} only if the rest of each split weight is quantized, "
        f"which makes a base that nobody else has; use LoRA or EVA on "
        f'{base.quantization}, or {kind} with `base.quantization = "none"`'
    )


def inject_from_weights(
    lora: LoRA,
    model: nn.Module,
    encoded: Encoded,
    head: tuple[str, ...],
    start: Callable[[Any], None],
) -> nn.Module:
    """Returns the model with LoRA layers that start from a part of the weights they adapt.

    Args:
        start: initialises A and B of one LoRA layer with PEFT; if it also changes the base's
            weight, that weight is restored.
    """
    import torch
    from torch.nn.utils.parametrize import register_parametrization

    from peftkit.methods.joined import Joined
    from peftkit.methods.peft.injection import is_rehearsal
    from peftkit.methods.peft.layers import check_rank, lora_layers

    rehearsal = is_rehearsal(model)
    injected = inject_lora(lora, model, encoded, head)
    check_rank(injected)
    layer: Any
    for layer in lora_layers(injected).values():
        a, b = layer.lora_A[ADAPTER_NAME], layer.lora_B[ADAPTER_NAME]
        if not rehearsal:  # a rehearsal has no values to split
            weight = layer.get_base_layer().weight
            before = weight.data.clone()
            with torch.no_grad():
                start(layer)
            weight.data = before
        register_parametrization(a, "weight", Joined(a.weight, 0), unsafe=True)
        register_parametrization(b, "weight", Joined(-b.weight, 1), unsafe=True)
    return injected


def double_rank(lora: LoRA) -> LoRA:
    """Returns an ordinary LoRA with twice the rank of `lora`, to plan its memory and time."""
    shared = {name: getattr(lora, name) for name in LoRA.model_fields}
    ranks = {name: 2 * rank for name, rank in lora.rank_pattern.items()}
    return LoRA(**{**shared, "r": 2 * lora.r, "rank_pattern": ranks})


def save_from_weights(model: nn.Module, folder: Path) -> None:
    """Saves the head, and an ordinary LoRA of rank 2r that joins trained and frozen halves."""
    from peft.utils import get_peft_model_state_dict
    from safetensors.torch import save_file

    from peftkit.methods.peft.layers import lora_layers
    from peftkit.methods.peft.layout import WEIGHTS

    base: Any = model
    tensors = get_peft_model_state_dict(model, save_embedding_layers=False)
    tensors = {name: tensor for name, tensor in tensors.items() if "parametrizations" not in name}
    for name, layer in lora_layers(model).items():
        for part in ("lora_A", "lora_B"):
            joined = getattr(layer, part)[ADAPTER_NAME].weight
            tensors[f"base_model.model.{name}.{part}.weight"] = joined
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    base.peft_config[ADAPTER_NAME].save_pretrained(str(folder))
    file = folder / "adapter_config.json"
    config = json.loads(file.read_text())
    factor = math.sqrt(2) if config["use_rslora"] else 2
    config["r"] *= 2
    config["lora_alpha"] *= factor
    config["rank_pattern"] = {name: 2 * rank for name, rank in config["rank_pattern"].items()}
    config["alpha_pattern"] = {n: factor * alpha for n, alpha in config["alpha_pattern"].items()}
    config["inference_mode"] = True
    file.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n")
