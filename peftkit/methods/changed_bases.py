"""Recognises adapters whose LoRA initialisation changed the base's weights, from their settings.

The trained A and B then fit only the changed base. When PEFT 0.21 loads such an adapter on the
unchanged base, it repeats the change for `pissa` and `olora` (exactly only in the dtype of the
training, on unquantized weights). For others it makes another change: `pissa_niter_4` draws at
random, and `loftq` may quantize a second time. For `lora_ga` it makes none. No file says whether
the adapter is published for the changed or the unchanged base.

Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping

CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Beginnings of the values of `init_lora_weights` that change the base; `eva`, `gaussian`,
`orthogonal` and `mica` do not."""
CONVERT = (
    "convert it to LoRA where it was trained, with PEFT's `save_pretrained(..., "
    "path_initial_model_for_weight_conversion=...)`"
)
NO_CONVERSION = "PEFT has no conversion for it; ask for a LoRA of the unchanged base"


def changed_base(config: Mapping[str, object]) -> tuple[str, str] | None:
    """Returns a message and a hint if an adapter's initialisation changed its base, else None.

    Args:
        config: the content of adapter_config.json.
    """
    start = str(config.get("init_lora_weights")).lower()
    if not start.startswith(CHANGE_THE_BASE):
        return None
    message = (
        f"its initialisation, `{start[:40]}`, changed the base before training; whether the "
        "adapter fits the unchanged base is unknown"
    )
    return message, NO_CONVERSION if start.startswith("loftq") else CONVERT
