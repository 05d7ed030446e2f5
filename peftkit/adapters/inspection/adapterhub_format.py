"""Reads AdapterHub's settings, and finds those that peftkit's bottleneck adapters cannot express.

A BERT block ends in one of these formulas (from the source of `adapters` 1.x):

    h = dense(x),  r: the block's residual input,  N: its layer norm,  d(v) = scaling up(f(down(v)))

    pfeiffer   N(h + r + d(N(h + r)))      original_ln_before, residual_before_ln     (seq_bn)
    houlsby    N(h + d(h) + r)             neither parallel nor original_ln_before   (double_seq_bn)
    parallel   N(h + d(r) + r)             is_parallel, after the feed-forward only   (par_bn)

All three need `original_ln_after`. Uses only the standard library, as a part of stage 1.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal, TypeGuard

from peftkit.adapters.inspection.hazards import LARGEST_NUMBER, LIMITS, leads_elsewhere
from peftkit.errors import quoted
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.parts.json_object import JsonObject

ADAPTER_WEIGHTS = ("adapter.safetensors", "pytorch_adapter.safetensors")
"""Names of an adapter's weight file, as AdapterHub's library or `peftkit convert` writes it."""
HEAD_WEIGHTS = ("model_head.safetensors", "pytorch_model_head.safetensors")
SAME_AS = {"pytorch_adapter.bin": ADAPTER_WEIGHTS, "pytorch_model_head.bin": HEAD_WEIGHTS}
HEAD_CONFIG = "head_config.json"
FUSION_CONFIG = "adapter_fusion_config.json"
MODEL_TYPES = ("bert", "roberta", "xlm-roberta", "electra")
"""Architectures with BERT's blocks; other blocks add residuals in another order."""
DEFAULTS: dict[str, object] = {
    "mh_adapter": None, "output_adapter": None, "reduction_factor": None, "non_linearity": None,
    "original_ln_before": False, "original_ln_after": True, "ln_before": False, "ln_after": False,
    "is_parallel": False, "scaling": 1.0, "use_gating": False, "residual_before_ln": True,
    "adapter_residual_before_ln": False, "inv_adapter": None, "cross_adapter": False,
    "leave_out": [], "phm_layer": False,
}  # fmt: skip
"""Defaults of `BnConfig` in AdapterHub's library; None for fields without a default."""
WITHOUT_EFFECT = (
    "init_weights", "init_weights_seed", "dropout", "stochastic_depth",
    "inv_adapter_reduction_factor", "phm_dim", "factorized_phm_W", "shared_W_phm",
    "shared_phm_rule", "factorized_phm_rule", "phm_c_init",
    "phm_init_range", "learn_phm", "hypercomplex_nonlinearity", "phm_rank", "phm_bias",
)  # fmt: skip
"""Fields that have no effect after training unless `phm_layer` or `inv_adapter` is set."""
NOT_COMPUTED = {
    "use_gating": "a gate computed from the whole text scales its output",
    "phm_layer": "its layers are sums of Kronecker products (Compacter)",
    "inv_adapter": "an invertible adapter changes the embeddings",
    "invertible_adapter": "an invertible adapter changes the embeddings",
    "ln_after": "a layer norm of its own follows it",
    "cross_adapter": "it adapts the attention to an encoder",
    "adapter_residual_before_ln": "it adds its input before a layer norm of its own",
}
OTHER_NAMES = {"leakyrelu": "leaky_relu"}
"""AdapterHub's name of a non-linearity -> transformers' name; lists only names that differ."""
OLD_NAMES = {"gelu": "gelu_new", "gelu_orig": "gelu"}
"""Name of a non-linearity in an adapter_config.json without `version` -> its name today."""


Placement = Literal["houlsby", "pfeiffer", "parallel"]


@dataclass(frozen=True)
class HubSettings:
    """The settings, under today's names, of an AdapterHub adapter that peftkit can load."""

    name: str
    """Name of the adapter; the names of its tensors contain it."""
    model_type: str
    """Architecture of the base."""
    hidden_size: int
    """Hidden size of the base."""
    width: int
    """Width of the bottleneck, computed as in AdapterHub's library."""
    placement: Placement
    """peftkit's name for the adapter's place in a block."""
    places: tuple[str, ...]
    """`mh_adapter` (after the attention), `output_adapter` (after the feed-forward), or both."""
    non_linearity: str
    scaling: float | None
    """Factor on the adapter's output; None if it is learned."""
    ln_before: bool
    left_out: frozenset[int]
    """Indices of the blocks without an adapter."""

    @classmethod
    def of(cls, config: AdapterConfig) -> HubSettings:
        """Reads the settings in an adapter_config.json.

        Raises:
            AdapterError: a value has the wrong type.
        """
        settings = JsonObject(_settings(config), config.file)
        hidden, factor = config.whole("hidden_size"), settings.number("reduction_factor")
        assert hidden is not None
        assert factor is not None
        scaling = settings["scaling"]
        return cls(
            name=config.text("name"),
            model_type=config.text("model_type"),
            hidden_size=hidden,
            width=_width(hidden, factor),
            placement=_placement(settings),
            places=tuple(name for name in ("mh_adapter", "output_adapter") if settings[name]),
            non_linearity=settings.text("non_linearity"),
            scaling=None if isinstance(scaling, str) else settings.number("scaling"),
            ln_before=bool(settings["ln_before"]),
            left_out=frozenset(n for n in settings.items_of("leave_out") if isinstance(n, int)),
        )


def is_adapterhub(config: AdapterConfig) -> bool:
    """Whether an adapter_config.json is AdapterHub's."""
    known = any(name in config for name in ("hidden_size", "model_class", "model_type"))
    return "config" in config and known and "peft_type" not in config


def describe(config: AdapterConfig) -> str:
    """Describes an adapter's settings in words."""
    if not isinstance(config["config"], dict):
        return "of an early version"
    settings = _settings(config)
    return f"{_placement(settings)}, reduction factor {str(settings['reduction_factor'])[:20]}"


def _settings(config: AdapterConfig) -> dict[str, object]:
    """A config's settings under today's names, with defaults for missing settings.

    The values keep the types that they have in adapter_config.json.
    """
    settings = {**DEFAULTS, **config.table("config")}
    name = str(settings["non_linearity"]).lower()
    name = name if "version" in config else OLD_NAMES.get(name, name)
    settings["non_linearity"] = OTHER_NAMES.get(name, name)
    return settings


def _placement(settings: Mapping[str, object]) -> Placement:
    if settings["is_parallel"]:
        return "parallel"
    return "pfeiffer" if settings["original_ln_before"] else "houlsby"


def _width(hidden_size: int, reduction_factor: float) -> int:
    return max(1, int(hidden_size // reduction_factor))


def wrong_adapter(config: AdapterConfig) -> Iterator[str]:
    """Reasons why peftkit cannot load an AdapterHub adapter_config.json."""
    model, base = config.get("model_type"), config.get("model_name")
    if model not in MODEL_TYPES:
        yield f"it is for a {str(model)[:40]} model; only {quoted(MODEL_TYPES)} are supported"
    name = config.get("name")
    if not isinstance(name, str) or not name.isprintable() or not name or "." in name:
        yield f"`name` is {str(name)[:40]!r}"
    if base is not None and (not isinstance(base, str) or leads_elsewhere(base)):
        yield f"`model_name` is {base!r}, a path that leads elsewhere"
    settings = config["config"]
    if not isinstance(settings, dict):
        yield f"`config` is {str(settings)[:40]!r}, not the settings"
        return
    if kind := settings.get("architecture"):
        yield f"it is no bottleneck adapter; its `architecture` is {str(kind)[:40]!r}"
        return
    for field, why in NOT_COMPUTED.items():
        if settings.get(field):
            yield f"`{field}` is {str(settings[field])[:40]!r}: {why}"
    known = {*DEFAULTS, *WITHOUT_EFFECT, *NOT_COMPUTED}
    for field in sorted(settings.keys() - known):
        if settings[field]:
            yield f"`{field}` is {str(settings[field])[:40]!r}, an unknown setting"
    yield from _wrong_numbers(config)
    yield from _wrong_place(_settings(config))


def _wrong_place(settings: Mapping[str, object]) -> Iterator[str]:
    if not settings["original_ln_after"]:
        yield "`original_ln_after` is false: the block's own norm and residual would not follow"
    if settings["is_parallel"]:
        if settings["mh_adapter"]:
            yield "`mh_adapter` is set: a parallel adapter beside the attention"
    elif settings["residual_before_ln"] is not True and (
        settings["original_ln_before"] or settings["residual_before_ln"]
    ):
        yield (
            f"`residual_before_ln` is {settings['residual_before_ln']!r}: it adds another residual "
            "than peftkit's adapters"
        )
    if not (settings["mh_adapter"] or settings["output_adapter"]):
        yield "neither `mh_adapter` nor `output_adapter` is set: it is in no block"


def _wrong_numbers(config: AdapterConfig) -> Iterator[str]:
    settings, hidden = _settings(config), config.get("hidden_size")
    most = LIMITS["token_dim"]
    if not isinstance(hidden, int) or isinstance(hidden, bool) or not 0 < hidden <= most:
        yield f"`hidden_size` is {str(hidden)[:40]}"
        return
    factor, scaling = settings["reduction_factor"], settings["scaling"]
    if isinstance(factor, dict):
        yield "`reduction_factor` differs by layer"
    elif not _is_number(factor) or factor <= 0 or _width(hidden, factor) > most:
        yield f"`reduction_factor` is {str(factor)[:40]}"
    if not (_is_number(scaling) or scaling in ("learned", "channel")):
        yield f"`scaling` is {str(scaling)[:40]!r}"
    left_out = settings["leave_out"] or []
    if not isinstance(left_out, list) or not all(type(n) is int for n in left_out):
        yield f"`leave_out` is {str(left_out)[:40]}"


def _is_number(value: object) -> TypeGuard[float]:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return math.isfinite(value) and abs(value) < LARGEST_NUMBER
