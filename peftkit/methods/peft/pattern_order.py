"""Rewrites patterns so that the order of their keys does not matter.

In a pattern such as `rank_pattern`, the first key that matches a layer's name counts. PEFT saves
the keys sorted. If sorting would give a layer another value, the pattern is rewritten with one
exact key for each layer.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from peft.utils.other import get_pattern_key

from peftkit.errors import MethodError

ValueT = TypeVar("ValueT")
Lookup = Callable[[Sequence[str], str], str]
"""Function (keys of a pattern, name of a layer) -> the key that counts for the layer, or the
layer's name if no key matches."""


def _after_a_dot(keys: Sequence[str], name: str) -> str:
    return next((key for key in keys if re.match(rf".*\.{key}$", name)), name)


def _anywhere(keys: Sequence[str], name: str) -> str:
    return next((key for key in keys if re.search(key, name)), name)


OTHERS: dict[str, Lookup] = {"FOURIERFT": _after_a_dot, "C3A": _after_a_dot, "OSF": _anywhere}
"""PEFT tuner that does not use PEFT's `get_pattern_key` -> the tuner's own lookup."""


def lookup_of(kind: str) -> Lookup:
    """Returns the function with which a tuner of PEFT finds the key for a layer."""
    return OTHERS.get(kind, get_pattern_key)


def values_of(
    pattern: Mapping[str, ValueT], keys: Iterable[str], layers: Iterable[str], lookup: Lookup
) -> dict[str, ValueT]:
    """Returns layer name -> value, for the layers that a key of the pattern matches.

    Args:
        keys: keys of the pattern, in the order in which they are tried.
    """
    ordered = list(keys)
    matched = {layer: lookup(ordered, layer) for layer in layers}
    return {layer: pattern[key] for layer, key in matched.items() if key in pattern}


def order_free(
    pattern: Mapping[str, ValueT], layers: Iterable[str], kind: str, field: str
) -> dict[str, ValueT]:
    """Returns a pattern whose values for the layers do not depend on the order of its keys.

    Returns the given pattern if sorting its keys changes no layer's value.

    Args:
        layers: names of the adapted layers and parameters.
        kind: PEFT's name of the tuner.
        field: name of the recipe's field, for messages.

    Raises:
        MethodError: no keys give the same values in any order.
    """
    lookup, names = lookup_of(kind), list(layers)
    wanted = values_of(pattern, pattern, names, lookup)
    if values_of(pattern, sorted(pattern), names, lookup) == wanted:
        return dict(pattern)
    for exact in (lambda name: f"^{re.escape(name)}$", str):
        keys = {exact(layer): value for layer, value in wanted.items()}
        if values_of(keys, sorted(keys), names, lookup) == wanted:
            return keys
    raise MethodError(
        f"`{field}`: several keys match a layer, and adapter_config.json does not keep their order",
        "give keys so that only one matches each layer",
    )
