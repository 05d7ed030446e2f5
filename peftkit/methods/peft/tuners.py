"""PEFT's tuners: which of them are served, on which weights, and which can be merged."""

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
"""Tuners that the matrix shows to compute right on int8 and 4-bit layers. Several others take the
packed bytes for numbers, some of them in silence (HRA and DEFT on int8)."""
OTHER_TARGETS = ("ADAPTION_PROMPT", "ADAMSS")
"""Tuners to which a text as `target_modules` is no pattern over full names."""
STARTS_OF_OUR_OWN = ("pissa", "olora", "corda", "lora_ga", "loftq", "eva")
"""Values of `init_lora_weights` that change the base, so that the saved adapter would not fit it,
or that look at data, which PEFT does apart from the configuration."""
VIRTUAL = ("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING")
"""Tuners that put virtual tokens before the text."""
MERGED_BY: dict[str, Method] = {
    "LORA": LoRA(), "ADALORA": AdaLoRA(), "IA3": IA3(), "LN_TUNING": LayerNormTuning(),
}  # fmt: skip
"""Tuners that can be merged -> the method that knows into which weights."""
CHANGE_THE_BASE = (
    "bias", "lora_bias", "modules_to_save", "target_parameters", "trainable_token_indices",
)  # fmt: skip
"""Fields of PEFT's configurations that train more than the tuner's own tensors."""
NOT_MERGED = {
    "alora_invocation_tokens": "it changes only what follows its invocation tokens",
    "arrow_config": "it mixes several adapters token by token",
}
"""Fields of LoRA by which it is no change of the base's weights -> why."""
NO_BIAS = (
    "it cannot be merged: `lora_bias` trains biases of layers that have none in the base; keep the "
    "adapter, or leave `lora_bias` out"
)
NOT_SERVED = {
    "ADALORA": "its ranks fall by calls after each step; use AdaLoRA",
    "ADAMSS": "it allocates ranks by calls after each step; use AdaLoRA",
    "CARTRIDGE": "its cache is not placed rightly in batches; use PrefixTuning",
    "CPT": "its prompt is not placed rightly in batches; use PromptTuning",
    "SHADOW": "its hidden states are no tensors, which the heads here read",
    "LILY": "it averages over the batch, so that an answer depends on the texts beside it",
    "POLY": "it needs a task id with every text",
    "MULTITASK_PROMPT_TUNING": "it needs a task id with every text",
    "XLORA": "it mixes adapters that were trained before",
    "TRAINABLE_TOKENS": "`base.added_tokens` trains embeddings of added tokens, with any method",
}
"""Tuners that peftkit does not serve -> why."""
