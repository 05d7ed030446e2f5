"""Lists PEFT's tuners that are unsupported, correct on quantized weights, or mergeable."""

from __future__ import annotations

from peftkit.methods.adalora import AdaLoRA
from peftkit.methods.ia3 import IA3
from peftkit.methods.layer_norm_tuning import LayerNormTuning
from peftkit.methods.lora import LoRA
from peftkit.methods.method import Method

ON_QUANTIZED = (
    "LORA", "IA3", "OFT", "VERA", "MISS", "PROMPT_TUNING", "P_TUNING",
    "PREFIX_TUNING",
)  # fmt: skip
"""Tuners that compute correctly on int8 and 4-bit layers, as docs/matrix.md shows. Several others
read the packed bytes as numbers, some silently (HRA and DEFT on int8)."""
OTHER_TARGETS = ("ADAPTION_PROMPT", "ADAMSS")
"""Tuners for which a text in `target_modules` is not a pattern for full names."""
OWN_INITS = ("pissa", "olora", "corda", "lora_ga", "loftq", "eva")
"""Beginnings of the values of `init_lora_weights` that PeftMethod refuses. These initialisations
need data, or change the base so that the saved adapter does not fit the unchanged base."""
VIRTUAL = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Tuners that put virtual tokens before the text."""
MERGED_BY: dict[str, Method] = {
    "LORA": LoRA(), "ADALORA": AdaLoRA(), "IA3": IA3(), "LN_TUNING": LayerNormTuning(),
}  # fmt: skip
"""Tuner that can be merged -> the method whose `refuses_merging` applies to it."""
CHANGE_THE_BASE = (
    "bias", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Fields of PEFT's configurations that train more than the tuner's own tensors."""
NOT_MERGED = {
    "alora_invocation_tokens": "it changes only what follows its invocation tokens",
    "arrow_config": "it mixes several adapters token by token",
}
"""Field of LoRA's configuration that prevents merging -> the reason."""
NO_BIAS = (
    "it cannot be merged: `lora_bias` trains biases of layers that have none in the base; keep the "
    "adapter, or leave `lora_bias` out"
)
NOT_SUPPORTED = {
    "ADALORA": "it lowers its ranks by calls after each step; use AdaLoRA",
    "ADAMSS": "it allocates ranks by calls after each step; use AdaLoRA",
    "CARTRIDGE": "its cache is in the wrong place in batches; use PrefixTuning",
    "CPT": "its prompt is in the wrong place in batches; use PromptTuning",
    "SHADOW": "its hidden states are not tensors, which peftkit's heads read",
    "LILY": "it averages over the batch, so an answer depends on the other texts",
    "POLY": "it needs a task id with every text",
    "MULTITASK_PROMPT_TUNING": "it needs a task id with every text",
    "XLORA": "it mixes adapters that were trained before",
    "TRAINABLE_TOKENS": "`base.added_tokens` trains embeddings of added tokens, with any method",
}
"""Tuner that peftkit does not support -> the reason."""
