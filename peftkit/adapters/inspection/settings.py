"""Checks adapter_config.json for missing and outdated fields, and adds the user's values.

PEFT gives a missing field today's default. This is right for most fields, whose default keeps the
computation of earlier versions. `DECIDING` and `HIDDEN` list the fields whose default may be wrong.
Uses only the standard library, as `inspecting` does, except that `_check_field` imports PEFT.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence

from peftkit.errors import RecipeError, did_you_mean, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig

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
"""PEFT type -> fields that decide the strength or the place of the update. Every PEFT version with
this type saves a value for them (checked for PEFT 0.1 to 0.21)."""
HIDDEN = {
    "LORA": ("alpha_pattern", "use_rslora", "alora_invocation_tokens"),
    "LOHA": ("alpha_pattern",),
    "LOKR": ("alpha_pattern",),
    "OFT": ("coft", "eps", "use_cayley_neumann", "num_cayley_neumann_terms"),
    "WAVEFT": ("use_idwt",),
}
"""PEFT type -> further fields that change the computation, and whose values the tensors do not
show. Earlier PEFT versions may lack them."""
OTHER_BEFORE = {"OFT": ("use_cayley_neumann",)}
"""PEFT type -> fields in `HIDDEN` whose default differs from what earlier versions computed."""
MAY_BE_NULL = ("alora_invocation_tokens",)
SINCE: dict[str, tuple[int, int]] = {
    name: version
    for version, names in {
        (0, 3): "init_lora_weights",
        (0, 4): "auto_mapping layers_pattern layers_to_transform revision",
        (0, 6): "alpha_pattern rank_pattern",
        (0, 7): "loftq_config megatron_config megatron_core tokenizer_kwargs",
        (0, 8): "use_rslora",
        (0, 9): "use_dora",
        (0, 10): "layer_replication",
        (0, 12): "runtime_config",
        (0, 14): "eva_config exclude_modules lora_bias rank_dropout_scale",
        (0, 15): "corda_config trainable_token_indices",
        (0, 16): "num_cayley_neumann_terms qalora_group_size use_cayley_neumann use_qalora",
        (0, 17): "target_parameters",
        (0, 18): "alora_invocation_tokens arrow_config ensure_weight_tying peft_version",
        (0, 19): "lora_ga_config use_bdlora",
        (0, 20): "generator_seed monteclora_config random_seed velora_config",
        (0, 21): "kasa_config",
    }.items()
    for name in names.split()
}
"""Field that PEFT added to existing types -> first PEFT version that writes it. The versions were
read from the releases 0.3 to 0.21."""
ADDED_SINCE = {
    "OFT": dict.fromkeys(("bias", "fan_in_fan_out", "oft_block_size"), (0, 14)),
    "PREFIX_TUNING": {"modules_to_save": (0, 17), "init_weights": (0, 19)},
    "PROMPT_TUNING": {"modules_to_save": (0, 17)},
    "P_TUNING": {"modules_to_save": (0, 17)},
}
"""PEFT type -> field -> first PEFT version that writes it for this type; overrides `SINCE`."""
IN_EVERY_CONFIG = ("base_model_name_or_path", "peft_type", "revision", "task_type")
FUSED = (
    "PEFT 0.1 and 0.2 adapt the parts of a fused layer that are true in the list (query and "
    "value, say), each with its own B; later versions cannot"
)
LOAD_OLD = (
    "load it with PEFT 0.2 (`pip install peft==0.2.0`), or ask for a LoRA saved by a later one"
)
EARLY_FIELDS = ("enable_lora", "merge_weights")
"""Fields that only PEFT 0.1 and 0.2 write."""


def missing_settings(config: AdapterConfig) -> list[str]:
    """Fields of `DECIDING` and `HIDDEN` that an adapter_config.json should have, but lacks."""
    wanted = DECIDING.get(str(config.get("peft_type")), ())
    has_parameters = config.get("target_parameters")  # makes modules optional
    missing = [
        name
        for name in wanted
        if config.get(name) is None and not (name == "target_modules" and has_parameters)
    ]
    return missing + [name for name in _hidden(config) if name not in config]


def _hidden(config: AdapterConfig) -> Iterator[str]:
    """Yields the fields of `HIDDEN` that a config should have.

    A config should have a field if the PEFT version that saved the config writes this field, or
    if the field's default differs from what that version computed.
    """
    kind, last = str(config.get("peft_type")), saved_by(config)
    for name in HIDDEN.get(kind, ()):
        first = since(kind, name)
        written = first <= last if _names_release(config) else first < last
        if written or (name in OTHER_BEFORE.get(kind, ()) and "oft_block_size" in config):
            yield name


def since(kind: str, name: str) -> tuple[int, int]:
    """The first PEFT version that writes a type's field; (0, 0) if the type always had it."""
    return ADDED_SINCE.get(kind, {}).get(name, SINCE.get(name, (0, 0)))


def saved_by(config: AdapterConfig) -> tuple[int, int]:
    """The oldest PEFT version (major, minor) that can have saved a config.

    It is the config's `peft_version`, or the first version that writes all of the config's
    fields if that version is later.
    """
    version = re.match(r"(\d{1,4})\.(\d{1,4})", str(config.get("peft_version") or ""))
    oldest = max((since(str(config.get("peft_type")), name) for name in config), default=(0, 0))
    return max(oldest, (int(version[1]), int(version[2])) if version else oldest)


def of_earlier_peft(config: AdapterConfig, missing: Sequence[str]) -> bool:
    """Whether the PEFT version that saved the config may be older than the fields `missing`."""
    first = min(since(str(config.get("peft_type")), name) for name in missing)
    last = saved_by(config)
    return (0, 0) < first >= last and not (first == last and _names_release(config))


def _names_release(config: AdapterConfig) -> bool:
    """Whether `peft_version` in the config is a release, not a development version."""
    return re.fullmatch(r"[\d.]+", str(config.get("peft_version"))) is not None


def about_missing(config: AdapterConfig, name: str) -> tuple[str, str, str]:
    """Message, meaning and advice for a deciding field without a value."""
    problem = "has no value" if name in config else "is not"
    if name not in DECIDING.get(config.kind, ()):
        return _about_hidden(config, name)
    return (
        f"`{name}` {problem} in adapter_config.json",
        "its strength or place is unknown: every PEFT version saves this field for "
        f"{config.kind}, and loading would use today's default",
        f"ask whoever published it; if you know the value: `{OPTION} {name}=VALUE`, or "
        "`adapter_settings` of `peftkit.load`",
    )


def _about_hidden(config: AdapterConfig, name: str) -> tuple[str, str, str]:
    (_, minor), (_, last) = since(config.kind, name), saved_by(config)
    if last < minor:
        meaning = f"PEFT before 0.{minor} computed differently from today's default"
        value = f"`{OPTION} {name}=false` computes as before"
    else:
        by = f"PEFT {config['peft_version']}" if config.get("peft_version") else f"PEFT 0.{last}"
        meaning = (
            f"its effect is unknown: the other fields show that {by} or a later version "
            "saved it, which writes this field too"
        )
        value = f"if you know the value: `{OPTION} {name}=VALUE`"
    return (
        f"`{name}` is not in adapter_config.json",
        meaning,
        f"ask whoever published it; {value}, or `adapter_settings` of `peftkit.load`",
    )


def early_fields(config: AdapterConfig) -> Iterator[tuple[bool, str, str, str]]:
    """Yields findings on fields that only PEFT 0.1 and 0.2 write.

    A finding is (whether the field changes the answers, message, meaning, advice).
    """
    if (enabled := config.get("enable_lora")) is not None:
        yield True, f"`enable_lora` is {str(enabled)[:60]}", FUSED, LOAD_OLD
    elif "enable_lora" in config:
        yield False, "`enable_lora` has no value", "PEFT 0.1 or 0.2 saved it; it has no effect", ""
    if "merge_weights" in config:
        yield (
            False,
            f"`merge_weights` is {str(config['merge_weights'])[:60]}",
            "PEFT 0.1 or 0.2 saved it; it merges layers for inference, which keeps the answers",
            "",
        )


def parse_settings(texts: Sequence[str]) -> dict[str, object]:
    """Parses texts `NAME=VALUE` into field -> value; a VALUE that is not JSON is a string.

    Raises:
        RecipeError: a text is not of this form, or a field is given twice.
    """
    settings: dict[str, object] = {}
    for text in texts:
        name, sign, value = text.partition("=")
        if not sign or not name.strip() or not value.strip():
            raise RecipeError(
                f"`{OPTION} {text}` is not NAME=VALUE", f"for example `{OPTION} lora_alpha=16`"
            )
        if (name := name.strip()) in settings:
            raise RecipeError(f"`{OPTION}` gives `{name}` twice", "give it once")
        try:
            settings[name] = json.loads(value)
        except (ValueError, RecursionError):
            settings[name] = value
    return settings


def with_settings(config: AdapterConfig, settings: Mapping[str, object]) -> AdapterConfig:
    """Completes an adapter_config.json with the user's values.

    Raises:
        RecipeError: `settings` has a field that the adapter's type lacks, or contradicts the
            adapter_config.json.
    """
    kind = config.get("peft_type") or settings.get("peft_type")
    for name, value in settings.items():
        known = (*DECIDING.get(str(kind), ()), *HIDDEN.get(str(kind), ()))
        if name not in (*IN_EVERY_CONFIG, *known):
            _check_field(str(kind), name)
        if value is None and name not in MAY_BE_NULL:
            raise RecipeError(f"`{OPTION} {name}` gives no value", "leave it out")
        if (saved := config.get(name)) is not None and saved != value:
            raise RecipeError(
                f"`{OPTION} {name}` gives {str(value)[:60]}, and adapter_config.json has "
                f"{str(saved)[:60]}",
                "leave it out: the option only adds missing fields",
            )
    return AdapterConfig({**config, **settings})


def _check_field(kind: str, name: str) -> None:
    """Raises RecipeError unless a PEFT type has a field with this name; imports PEFT."""
    import dataclasses

    import peftkit.methods.bottleneck_tuner  # noqa: F401  # registers bottleneck adapters
    from peftkit.methods.peft.types import config_classes

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
