"""Initialisations of LoRA that change the base's weights, found in the adapter's settings.

The trained A and B then fit only the changed base. When PEFT loads such an adapter, it repeats the
change on an unchanged base for some of them (in 0.21 `pissa` and `olora`, exactly in the dtype of
the training and on weights that are not quantized), makes another change for others
(`pissa_niter_4` draws at random, `loftq` quantizes what may be quantized already), and none for
`lora_ga`. No file says whether the adapter is published for the changed or the unchanged base.
Standard library only.
"""

from __future__ import annotations

from collections.abc import Mapping

CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")
"""Beginnings of `init_lora_weights`; `eva`, `gaussian`, `orthogonal` and `mica` change no base."""
CONVERT = (
    "convert it to LoRA where it was trained, with PEFT's `save_pretrained(..., "
    "path_initial_model_for_weight_conversion=...)`"
)
NO_CONVERSION = "PEFT has no conversion for it; ask for a LoRA of the unchanged base"


def changed_base(config: Mapping[str, object]) -> tuple[str, str] | None:
    """Returns how an adapter's initialisation changed its base, and the hint; None if it did not.

    Args:
        config: the content of adapter_config.json.
    """
    start = str(config.get("init_lora_weights")).lower()
    if not start.startswith(CHANGE_THE_BASE):
        return None
    message = (
        f"its initialisation, `{start[:40]}`, had changed the base it was trained on, and whether "
        "it fits the unchanged base is unknown"
    )
    return message, NO_CONVERSION if start.startswith("loftq") else CONVERT
