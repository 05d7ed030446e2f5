"""Fields that adapter_config.json must have, the meaning of old ones, and values that the user
gives for missing ones.

PEFT fills a missing field with today's default. For most fields that is right: they were added
later, with a default that keeps the old computation. `DECIDING` has the others. The standard
library only, as in `inspecting`, unless the user names a field that is not among them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from peftkit.errors import RecipeError, did_you_mean, quoted

OPTION = "--adapter-setting"
RANKED = ("r", "target_modules")
DECIDING: dict[str, tuple[str, ...]] = {
    "LORA": ("r", "lora_alpha", "target_modules"),
    "ADALORA": ("init_r", "lora_alpha", "target_modules"),
    "LOHA": (*RANKED, "alpha"),
    "LOKR": (*RANKED, "alpha"),
    "IA3": ("target_modules", "feedforward_modules"),
    "OFT": RANKED,
    "BOFT": ("boft_block_size", "boft_block_num", "boft_n_butterfly_factor", "target_modules"),
    "VERA": (*RANKED, "projection_prng_key"),
    "PVERA": (*RANKED, "projection_prng_key"),
    "RANDLORA": (*RANKED, "randlora_alpha", "projection_prng_key", "sparse", "very_sparse"),
    "VBLORA": (*RANKED, "num_vectors", "vector_length", "topk"),
    "FOURIERFT": ("n_frequency", "scaling", "random_loc_seed", "target_modules"),
    "WAVEFT": ("n_frequency", "scaling", "wavelet_family", "random_loc_seed", "target_modules"),
    "HRA": (*RANKED, "apply_GS"),
    "MISS": (*RANKED, "init_weights"),
    "C3A": ("block_size", "target_modules"),
    "ROAD": ("variant", "group_size", "target_modules"),
    "GRALORA": (*RANKED, "alpha", "gralora_k", "hybrid_r"),
    "PSOFT": (*RANKED, "psoft_alpha"),
    "TINYLORA": (*RANKED, "u", "projection_seed"),
    "UNILORA": (*RANKED, "proj_seed", "theta_d_length"),
    "PEANUT": (*RANKED, "depth", "act_fn", "scaling"),
    "FROD": ("projection_prng_key", "target_modules"),
    **dict.fromkeys(("ADAMSS", "DEFT", "DELORA", "GLORA", "HIRA", "SHIRA"), RANKED),
    **dict.fromkeys(("BEFT", "LN_TUNING", "OSF", "SUPERTUNING"), ("target_modules",)),
    **dict.fromkeys(("PROMPT_TUNING", "P_TUNING", "PREFIX_TUNING"), ("num_virtual_tokens",)),
    "TRAINABLE_TOKENS": ("token_indices",),
    "ADAPTION_PROMPT": ("adapter_len", "adapter_layers"),
    "BOTTLENECK": (
        "placement", "reduction_factor", "non_linearity", "scaling", "ln_before", "target_modules",
    ),
}  # fmt: skip
"""PEFT's types -> the fields that decide the strength or the place of the update. Every PEFT
version with the type saves a value for them (PEFT 0.1 to 0.21)."""
IN_EVERY_CONFIG = ("base_model_name_or_path", "peft_type", "revision", "task_type")
FUSED = (
    "PEFT 0.1 and 0.2 put LoRA on the parts of a fused layer that are true in the list (query and "
    "value, say), each with its own B; later versions cannot"
)
LOAD_OLD = "load it with PEFT 0.2 (`pip install peft==0.2.0`), or ask for a LoRA of a later PEFT"
EARLY_FIELDS = ("enable_lora", "merge_weights")
"""Fields of PEFT 0.1 and 0.2 that later versions lack."""


def missing_settings(config: Mapping[str, Any]) -> list[str]:
    """The deciding fields without a value in an adapter_config.json."""
    wanted = DECIDING.get(str(config.get("peft_type")), ())
    elsewhere = config.get("target_parameters")  # then there need be no modules
    return [
        name
        for name in wanted
        if config.get(name) is None and not (name == "target_modules" and elsewhere)
    ]


def about_missing(config: Mapping[str, Any], name: str) -> tuple[str, str, str]:
    """For a deciding field without a value: what was found, what it means, what to do."""
    told = "has no value" if name in config else "is not"
    return (
        f"`{name}` {told} in adapter_config.json",
        "its strength or place is unknown: every PEFT version saves this field for "
        f"{config['peft_type']}, and loading would use today's default",
        f"ask whoever published it; if you know the value: `{OPTION} {name}=VALUE`, or "
        "`adapter_settings` of `peftkit.load`",
    )


def early_fields(config: Mapping[str, Any]) -> Iterator[tuple[bool, str, str, str]]:
    """Fields of PEFT 0.1 and 0.2 that are there: whether one changes what is computed, what was
    found, what it means, what to do.
    """
    if (enabled := config.get("enable_lora")) is not None:
        yield True, f"`enable_lora` is {str(enabled)[:60]}", FUSED, LOAD_OLD
    elif "enable_lora" in config:
        yield False, "`enable_lora` has no value", "PEFT 0.1 or 0.2 saved it; it has no effect", ""
    if "merge_weights" in config:
        yield (
            False,
            f"`merge_weights` is {str(config['merge_weights'])[:60]}",
            "PEFT 0.1 or 0.2 saved it: whether layers merge for inference; the answers are the "
            "same",
            "",
        )


def parse_settings(given: Sequence[str]) -> dict[str, Any]:
    """Fields and values from texts `NAME=VALUE`; VALUE is JSON, or else text.

    Raises:
        RecipeError: one of them has another form, or a field is given twice.
    """
    found: dict[str, Any] = {}
    for text in given:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise RecipeError(
                f"`{OPTION} {text}` is not NAME=VALUE", f"for example `{OPTION} lora_alpha=16`"
            )
        if (name := name.strip()) in found:
            raise RecipeError(f"`{OPTION}` gives `{name}` twice", "give it once")
        try:
            found[name] = json.loads(value)
        except (ValueError, RecursionError):
            found[name] = value
    return found


def with_settings(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """An adapter_config.json completed with the user's values.

    Raises:
        RecipeError: the adapter's type has no such field, or the file has another value for it.
    """
    kind = config.get("peft_type") or given.get("peft_type")
    for name, value in given.items():
        if name not in (*IN_EVERY_CONFIG, *DECIDING.get(str(kind), ())):
            _check_field(str(kind), name)
        if value is None:
            raise RecipeError(f"`{OPTION} {name}` gives no value", "leave it out")
        if (there := config.get(name)) is not None and there != value:
            raise RecipeError(
                f"`{OPTION} {name}` gives {str(value)[:60]}, and adapter_config.json has "
                f"{str(there)[:60]}",
                "leave it out: the option completes what is missing and changes nothing",
            )
    return {**config, **given}


def _check_field(kind: str, name: str) -> None:
    """Raises RecipeError unless a type of PEFT's has a field; imports PEFT."""
    import dataclasses

    import peftkit.peft_plugin  # noqa: F401  # which adds bottleneck adapters to the types
    from peftkit.methods.peft_types import config_classes

    kinds = config_classes()
    if kind not in kinds:
        raise RecipeError(
            f"`{OPTION} {name}`: PEFT has no adapter type `{kind[:60]}`",
            f"its types are {quoted(sorted(kinds), 60)}",
        )
    fields = {field.name for field in dataclasses.fields(kinds[kind])}
    if name not in fields:
        raise RecipeError(
            f"`{OPTION}`: adapters of type {kind} have no field `{name}`",
            did_you_mean(name, fields) or f"they have {quoted(sorted(fields), 60)}",
        )
