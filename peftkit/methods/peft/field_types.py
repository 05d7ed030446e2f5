"""Finds configuration fields whose value has another type than PEFT declares.

PEFT checks no types: a text such as "false" counts as true. The field names are those of PEFT 0.21.
Imports only the standard library, as `adapters/inspection` does.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_NAMES: dict[tuple[str, ...], str] = {
    ("flag",): (
        "apply_GS block_share coft decompose_both enable_softmax enable_softmax_topk "
        "ensure_weight_tying fan_in_fan_out inference_mode init_ia3_weights layerwise_scalings "
        "ln_before lora_bias para prefix_projection progressbar proportional_parameters "
        "psoft_mag_a psoft_mag_b psoft_orth rank_dropout_scale runtime_offload_base_weight "
        "sample_at_inference save_indices save_only_topk_weights save_precomputed_indices "
        "save_projection select_top share_embeddings sparse use_asa use_cayley_neumann use_dora "
        "use_dynamic_rank use_effective_conv2d use_idwt use_qalora use_rslora "
        "use_trainable_adapters very_sparse"
    ),
    ("number",): (
        "adapter_layers adapter_len alpha asa_importance_beta asa_schedule_exponent "
        "asa_target_subspaces asa_uncertainty_beta auxiliary_loss_weight beta1 beta2 block_size "
        "boft_block_num boft_block_size boft_dropout boft_n_butterfly_factor cayley_neumann_eps "
        "d_initial decompose_factor deft_dropout delora_lambda deltaT depth effective_rank "
        "encoder_dropout encoder_hidden_size encoder_num_layers eps final_warmup frod_dropout "
        "generator_seed global_scaling_weight gralora_dropout gralora_k group_size hidden_size "
        "hira_dropout hybrid_r init_logits_std init_r init_scale init_theta_d_bound init_v_bound "
        "init_vector_bank_bound init_warmup lora_alpha lora_dropout mask_interval mini_r "
        "miss_dropout module_dropout n_frequency n_skills n_splits n_tasks num_B "
        "num_attention_heads num_cayley_neumann_terms num_frozen_tokens num_layers num_ranks "
        "num_subspaces num_tasks num_transformer_submodules num_vectors num_virtual_tokens "
        "oft_block_size opt_loss_decay_factor opt_projection_epsilon "
        "opt_projection_format_epsilon orth_reg_weight proj_seed projection_prng_key "
        "projection_seed prompt_tuning_init_task psoft_alpha psoft_dropout "
        "psoft_svd_lowrank_niter pvera_dropout qalora_group_size r randlora_alpha "
        "randlora_dropout random_loc_seed random_seed rank_dropout reduction_factor "
        "regularization_alpha scaling scaling_pass_value shadow_alpha shadow_dropout "
        "shadow_hidden_size shadow_intermediate_size shadow_num_attention_heads "
        "shadow_num_hidden_layers softmax_temperature sparse_rate sparsity stride_A subspace_rank "
        "svd_threshold target_r tfinal theta_d_length tinit tinylora_dropout token_dim top_k_lora "
        "topk total_step u unilora_dropout update_hidden_size vblora_dropout vector_length "
        "vera_dropout weight_tying xlora_depth xlora_dropout_p xlora_size"
    ),
    ("text",): (
        "ab_svd_init act_fn bias config_A_B config_C config_D_E decomposition_method "
        "encoder_reparameterization_type mask_type megatron_core non_linearity "
        "opt_weighted_loss_type peft_version placement poly_type prompt_tuning_init "
        "prompt_tuning_init_state_dict_path prompt_tuning_init_text psoft_svd revision "
        "shadow_model tokenizer_name_or_path variant wavelet_family"
    ),
    ("table",): (
        "adapters alpha_pattern arrow_config auto_mapping block_size_pattern corda_config "
        "eva_config kasa_config lambda_pattern loftq_config lora_ga_config megatron_config "
        "monteclora_config n_frequency_pattern rank_pattern target_svd_config tokenizer_kwargs "
        "use_bdlora velora_config"
    ),
    ("list",): (
        "alora_invocation_tokens cpt_mask cpt_token_ids cpt_tokens_type_mask layer_replication "
        "target_parameters token_indices"
    ),
    ("list", "text"): (
        "exclude_modules feedforward_modules layers_pattern modules_to_save target_modules"
    ),
    ("flag", "text"): "init_lora_weights init_weights",
    ("list", "number"): "layers_to_transform",
    ("list", "table"): "trainable_token_indices",
}
KINDS = {name: kinds for kinds, names in _NAMES.items() for name in names.split()}
"""Name of a PEFT field -> kinds of value that it may have, besides null."""
WORDS = {
    "flag": "true or false", "number": "a number", "text": "a text", "list": "a list",
    "table": "a table of names and values",
}  # fmt: skip
PATTERNS = ("rank_pattern", "alpha_pattern")
NOT_NULL: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(("LOHA", "LOKR"), PATTERNS), "LORA": (*PATTERNS, "lora_dropout"),
    "HIRA": ("rank_pattern",), "DELORA": ("rank_pattern", "lambda_pattern"),
    **dict.fromkeys(("FOURIERFT", "WAVEFT"), ("n_frequency_pattern",)),
    "C3A": ("block_size_pattern",),
}  # fmt: skip
"""PEFT's name of a tuner -> fields that must not be null."""
HOLD_TEXTS = (
    "exclude_modules", "feedforward_modules", "layers_pattern", "modules_to_save",
    "target_modules", "target_parameters",
)  # fmt: skip
"""Fields in which all items of a list must be texts."""
CHECKED_ELSEWHERE = (
    "r", "init_r", "target_r", "lora_alpha", "num_virtual_tokens", "num_layers", "token_dim",
    "num_attention_heads", "encoder_hidden_size", "encoder_num_layers", "auto_mapping",
    "num_transformer_submodules", "layer_replication", "megatron_config", "megatron_core",
    *PATTERNS,
)  # fmt: skip
"""Fields that `wrong_types` skips, because `adapters/inspection/hazards.py` checks them."""


def wrong_types(config: Mapping[str, object]) -> Iterator[tuple[str, str, str]]:
    """Yields the problem, its consequence and the hint for each value of a wrong type."""
    for name, value in config.items():
        if value is None:
            if name in NOT_NULL.get(str(config.get("peft_type")), ()):
                example = "0" if name.endswith("dropout") else "{}"
                yield (
                    f"`{name}` is null in adapter_config.json",
                    f"PEFT needs a value there, and writes {example} by default",
                    f"if that is what was trained: `--adapter-setting {name}={example}`",
                )
        elif (
            (kinds := KINDS.get(name)) and name not in CHECKED_ELSEWHERE and not _fits(value, kinds)
        ):
            yield _problem(name, value, " or ".join(WORDS[kind] for kind in kinds))
        elif name in HOLD_TEXTS and isinstance(value, list):
            other = [item for item in value if not isinstance(item, str)]
            yield from (_problem(name, item, "a text", "holds") for item in other[:1])


def wrong_values(config: Mapping[str, object]) -> Iterator[str]:
    """Yields a message for each field of a user's configuration whose value has a wrong form."""
    for name, value in config.items():
        kinds = KINDS.get(name)
        checked = name.endswith("_pattern") and name != "layers_pattern"  # at injection
        if value is None or kinds is None or checked:
            continue
        no_flag = value is False and not {"flag", "number"}.intersection(kinds)
        if no_flag or not _fits(value, kinds):
            yield f"`{name}` is {shown_value(value)}, not {' or '.join(WORDS[k] for k in kinds)}"
            continue
        texts = _as_list(value)
        if name == "modules_to_save" and isinstance(value, str):
            yield f"`{name}` is {shown_value(value)}; give a list, `[{value!r}]`"
        elif name in HOLD_TEXTS:
            other = [shown_value(item) for item in texts if not isinstance(item, str)]
            yield from (f"`{name}` holds {item}, not a text" for item in other[:1])
            if not other and (isinstance(value, str) or name in ALWAYS_PATTERNS):
                yield from (wrong for text in texts for wrong in _wrong_pattern(name, str(text)))
        elif name in HOLD_BLOCKS and not all(type(block) is int for block in _as_list(value)):
            yield f"`{name}` is {shown_value(value)}; give whole numbers, from 0"
        elif not all(isinstance(part, list) for part in _inner_lists(name, value)):
            yield f"`{name}` is {shown_value(value)}; {NESTED[name]}"


HOLD_BLOCKS = ("layers_to_transform",)
"""Fields that hold block numbers."""
ALWAYS_PATTERNS = ("layers_pattern",)
"""Fields of `HOLD_TEXTS` in which even the items of a list are checked as regular expressions. In
the other fields, only a single text is."""
NESTED = {
    "layer_replication": "give a beginning and an end for each span, `[[0, 2], [1, 2]]`",
    "trainable_token_indices": "give ids, or a list of them for each module",
}


def _as_list(value: object) -> list[object]:
    return value if isinstance(value, list) else [value]


def _inner_lists(name: str, value: Any) -> list[Any]:
    """Returns those items of a field's value that must be lists, such as `[0, 2]` in `[[0, 2]]`."""
    if name == "layer_replication":
        return list(value)
    return list(value.values()) if name in NESTED and isinstance(value, dict) else []


def _wrong_pattern(name: str, text: str) -> Iterator[str]:
    try:
        re.compile(text)
    except re.error as error:
        yield f"`{name}`: `{text}` is not a regular expression: {error}"


def shown_value(value: Any) -> str:
    """Returns a value as messages show it, such as `the text '8'` or `8`."""
    return f"the text {value[:40]!r}" if isinstance(value, str) else str(value)[:40]


def _problem(name: str, value: Any, wanted: str, verb: str = "is") -> tuple[str, str, str]:
    return (
        f"`{name}` {verb} {shown_value(value)}, not {wanted}",
        "PEFT checks no types, and computes with this value",
        "ask whoever published it, or correct it in a copy if you know what was trained",
    )


def _fits(value: Any, kinds: tuple[str, ...]) -> bool:
    if not value and not isinstance(value, str | int | float) and "number" not in kinds:
        return True  # PEFT reads an empty value as None
    fits = {
        "flag": isinstance(value, bool) or value in (0, 1),
        "number": isinstance(value, int | float),
        "text": isinstance(value, str),
        "list": isinstance(value, list),
        "table": isinstance(value, dict) or value is False,
    }
    return any(fits[kind] for kind in kinds)
