"""Starts of LoRA that take something out of the base's weights, told by the adapter's settings.

The trained A and B then fit only the base that is left. PEFT takes the same out of an unchanged
base when it loads some of them (in 0.21 `pissa` and `olora`, exactly so in the dtype of the
training and on weights that are not quantized), something else of others (`pissa_niter_4` draws at
random, `loftq` quantizes what may be quantized already), nothing of `lora_ga`; and which base the
adapter is published for, the changed or the unchanged one, is written nowhere. The standard
library only.
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
    """What the start of an adapter did to its base, and what to do; None if it did nothing.

    Args:
        config: the content of adapter_config.json.
    """
    start = str(config.get("init_lora_weights")).lower()
    if not start.startswith(CHANGE_THE_BASE):
        return None
    told = (
        f"it was trained on a base that its start, `{start[:40]}`, had changed, and whether it "
        "fits the base as it is cannot be told"
    )
    return told, NO_CONVERSION if start.startswith("loftq") else CONVERT
