"""Why a method cannot work somewhere, where several methods share the reason."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.bases.base import Base

if TYPE_CHECKING:
    from peftkit.data.head import Head


def quantized_weights_are_not_trained(kind: str, base: Base) -> str | None:
    """For methods that train the base's own weights."""
    if base.quantization == "none":
        return None
    return (
        f"{kind} trains the base's own weights, and {base.quantization} weights cannot "
        f'be trained; use LoRA on {base.quantization}, or `base.quantization = "none"`'
    )


def virtual_tokens_have_no_labels(kind: str, head: Head) -> str | None:
    """For methods that put virtual tokens into the text, and tasks with a label for each token."""
    if head.task_type != "TOKEN_CLS":
        return None
    return (
        f"{kind} puts virtual tokens into the text, and a token classifier gives outputs for them "
        "that no label answers; use PrefixTuning, whose virtual tokens have no outputs, or LoRA"
    )


def saved_as_lora(kind: str) -> str:
    """Why such an adapter is gone on with as what it was saved as."""
    return f"{kind} is saved as a LoRA of twice its `r` and `lora_alpha`; go on with LoRA"


def no_weaker_virtual_tokens(kind: str) -> str:
    """Why there is no smaller strength of virtual tokens."""
    return (
        f"{kind} puts virtual tokens before the text, and nothing is between having them and not "
        "having them; LoRA can be rewound"
    )
