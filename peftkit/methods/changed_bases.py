"""Tells from an adapter's settings whether its LoRA initialisation changed the base's weights.

The trained A and B then fit only the changed base. When PEFT 0.21 loads such an adapter on the
unchanged base, it repeats the change for `pissa` and `olora`; the result is the same only for
unquantized weights in the dtype of the training. Other initialisations change the base differently
on loading (`pissa_niter_4` is random, and `loftq` may quantize a second time), or not at all
(`lora_ga`). No file says whether a published adapter fits the changed or the unchanged base.

Imports only the standard library.
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
    """Returns a message and a hint if an adapter's initialisation changed its base; None if not.

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
