"""Checks a regular expression in `target_modules` against the names of a model's modules."""

from __future__ import annotations

import re
from typing import Any

from torch import nn

from peftkit.errors import MethodError, quoted
from peftkit.methods.targets.layers import ends_in, is_below, last_names, linear_names
from peftkit.methods.targets.targets import ALL_LINEAR

MOST_NAMES = 3
"""Maximum number of modules that an error names."""


def matched_modules(
    model: nn.Module, pattern: str, head: tuple[str, ...], field: str
) -> dict[str, nn.Module]:
    """Returns the modules outside the head whose full names a pattern matches, by name.

    Raises:
        MethodError: the pattern matches no module.
    """
    modules = {n: m for n, m in model.named_modules() if n and not is_below(n, head)}
    matched = {name: module for name, module in modules.items() if re.fullmatch(pattern, name)}
    if not matched:
        raise MethodError(
            f"`{field}`: `{pattern}` matches no layer of {type(model).__name__}",
            f"a pattern is for full names, such as {quoted(linear_names(model, head)[-2:])}",
        )
    return matched


def check_pattern(
    model: nn.Module,
    pattern: str,
    head: tuple[str, ...],
    kinds: tuple[type[Any], ...],
    field: str,
) -> None:
    """Raises MethodError if a pattern matches a module whose class is not in `kinds`. If `kinds` is
    empty, any class is allowed, but only modules whose children have no weights.
    """
    matched = matched_modules(model, pattern, head, field)
    other = {
        name: module
        for name, module in matched.items()
        if not (isinstance(module, kinds) if kinds else _is_layer(module))
    }
    if not other:
        return
    shown = [f"`{name}` ({type(m).__name__})" for name, m in list(other.items())[:MOST_NAMES]]
    more = f" and {len(other) - MOST_NAMES} more" if len(other) > MOST_NAMES else ""
    raise MethodError(
        f"`{field}`: `{pattern}` matches modules that cannot be adapted: {', '.join(shown)}{more}",
        _fitting_hint(model, pattern, head, matched),
    )


def _is_layer(module: nn.Module) -> bool:
    return not any(True for child in module.children() for _ in child.parameters())


def check_has_weights(
    model: nn.Module, wanted: str | list[str], head: tuple[str, ...], field: str
) -> None:
    """Raises MethodError if a wanted module has no weights, and so is not a sublayer or block."""
    for name, module in model.named_modules():
        meant = name and not is_below(name, head)
        if isinstance(wanted, str):
            meant = meant and re.fullmatch(wanted, name) is not None
        else:
            meant = meant and any(ends_in(name, one) for one in wanted)
        if meant and not any(True for _ in module.parameters()):
            raise MethodError(
                f"`{field}`: `{name}` ({type(module).__name__}) has no weights, so it is not a "
                "sublayer",
                "name sublayers or blocks, such as `mlp`, or leave the field out for the default",
            )


def _fitting_hint(
    model: nn.Module, pattern: str, head: tuple[str, ...], matched: dict[str, nn.Module]
) -> str:
    """Returns a hint that gives a pattern or names for linear layers only. These are the linear
    layers that `pattern` matches; if it matches none, the linear layers inside its matches.
    """
    linear = linear_names(model, head)
    wanted = [name for name in linear if name in matched]
    wanted = wanted or [name for name in linear if is_below(name, matched)]
    if not wanted:
        return f"it matches no linear layer; the model has {quoted(last_names(linear))}"
    if set(wanted) == set(linear):
        return f"`{ALL_LINEAR}` takes only the linear layers: {quoted(last_names(linear))}"
    last = "|".join(last_names(wanted))
    grouped = f"({pattern})" if "|" in pattern else pattern
    narrower = (
        rf"{grouped}\.({last})", rf"{grouped}\.(.*\.)?({last})", rf"(?={grouped}$)(.*\.)?({last})",
    )  # fmt: skip
    for one in narrower:
        if {name for name, _ in model.named_modules() if re.fullmatch(one, name)} == set(wanted):
            return f"`{one}` matches only the linear layers there"
    return f"name its linear layers in full: {quoted(wanted)}"
