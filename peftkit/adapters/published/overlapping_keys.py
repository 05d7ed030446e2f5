"""Checks other programs' adapters in which several keys of a pattern match one layer.

PEFT uses the first key that matches. It saves the keys sorted, so another key may have been first
in training (`methods/peft/pattern_order.py`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping

from peftkit.adapters.inspection.headers import Stored
from peftkit.errors import AdapterError
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.pattern_order import lookup_of

RANKS = {
    "LORA": (".lora_A.weight", ".lora_embedding_A"), "LOHA": (".hada_w1_b",), "HIRA": (".hira_A",),
    "DELORA": (".delora_A",),
}  # fmt: skip
"""PEFT type -> suffixes of the names of tensors whose first dimension is the rank."""


def check_ranks(config: AdapterConfig, tensors: Mapping[str, Stored]) -> None:
    """Raises AdapterError if a layer's tensors and the settings differ in rank."""
    pattern = config.table("rank_pattern")
    if config.get("target_parameters"):  # tensors that combine several ranks
        return
    for layer, stored in _adapted(config, tensors):
        rank = stored.shape[0] if stored.shape else 0
        key = lookup_of(config.kind)(list(pattern), layer)
        setting = pattern.get(key, config.get("r"))
        if setting == rank or not isinstance(setting, int):
            continue
        if key not in pattern:
            raise AdapterError(
                f"`r` is {setting} in adapter_config.json, and the tensors of `{layer}` have rank "
                f"{rank}",
                "settings and tensors are from different adapters; ask whoever published it",
            )
        message = f"`rank_pattern` gives `{layer}` rank {setting} by its first matching key `{key}`"
        others = [k for k in _keys(config, pattern, layer) if pattern[k] == rank]
        raise AdapterError(
            f"{message}, and this layer's tensors have rank {rank}",
            f"PEFT saves keys sorted, and in training `{others[0]}` came first: put that key "
            "first in adapter_config.json (`alpha_pattern` may need the same)"
            if others
            else "settings and tensors are from different adapters; ask whoever published it",
        )


def ambiguous_alpha(config: AdapterConfig, tensors: Mapping[str, Stored]) -> str:
    """A message if several keys of `alpha_pattern` give one layer different values; empty if not.

    PEFT sorts the keys when it saves them, which loses the order used in training. If the keys are
    not sorted, they still have that order, and the message is empty.
    """
    pattern = config.table("alpha_pattern")
    if list(pattern) != sorted(pattern):  # not sorted, so in the order of training
        return ""
    for layer, _ in _adapted(config, tensors):
        keys = _keys(config, pattern, layer)
        if len({json.dumps(pattern[key]) for key in keys}) > 1:
            one, other = (f"{pattern[key]} by `{key}`" for key in keys[:2])
            return f"`alpha_pattern` gives `{layer}` {one}, and {other}"
    return ""


def _adapted(config: AdapterConfig, tensors: Mapping[str, Stored]) -> Iterator[tuple[str, Stored]]:
    """Yields (name of the layer, tensor) for each tensor whose first dimension is the rank."""
    for name, stored in tensors.items():
        for end in RANKS.get(config.kind, ()):
            if name.endswith(end):
                yield name.removeprefix("base_model.model.").removesuffix(end), stored


def _keys(config: AdapterConfig, pattern: Mapping[str, object], layer: str) -> list[str]:
    """The keys of a pattern that match a layer, in the pattern's order."""
    lookup = lookup_of(config.kind)
    return [key for key in pattern if lookup([key], layer) in pattern]
