"""Messages of several methods that refuse a base, a head, continued training or rewinding."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.bases.base import Base

if TYPE_CHECKING:
    from peftkit.data.head import Head


def quantized_refusal(kind: str, base: Base) -> str | None:
    """Returns why a method of this kind cannot train a base's own weights; None if it can."""
    if base.quantization == "none":
        return None
    return (
        f"{kind} trains the base's own weights, and {base.quantization} weights cannot "
        f'be trained; use LoRA on {base.quantization}, or `base.quantization = "none"`'
    )


def token_labels_refusal(kind: str, head: Head) -> str | None:
    """Returns why a method with virtual tokens in the text refuses a head; None if it does not."""
    if head.task_type != "TOKEN_CLS":
        return None
    return (
        f"{kind} puts virtual tokens into the text, and a token classifier has outputs for them "
        "but no labels; use PrefixTuning, whose virtual tokens have no outputs, or LoRA"
    )


def start_refusal(kind: str) -> str:
    """Returns why PiSSA or OLoRA cannot continue training from its own saved adapter."""
    return f"{kind} is saved as a LoRA of twice its `r` and `lora_alpha`; continue with LoRA"


def rewinding_refusal(kind: str) -> str:
    """Returns why virtual tokens cannot be applied at a smaller strength."""
    return (
        f"{kind} puts virtual tokens before the text, and they have no smaller strength; LoRA can "
        "be rewound"
    )
