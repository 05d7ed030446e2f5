"""Checks the choice of modules to adapt against a model, and returns it in PEFT's form."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from peftkit.methods.targets.targets import ALL_LINEAR

if TYPE_CHECKING:
    from torch import nn


def linear_targets(
    model: nn.Module,
    wanted: str | Sequence[str],
    head: tuple[str, ...],
    kind: str = "LORA",
    field: str = "method.target_modules",
    blocks: Sequence[int] = (),
) -> str | list[str]:
    """Returns `target_modules` in the form that PEFT takes. Checks names and patterns, since PEFT
    silently ignores a misspelled name if another name matches.

    Args:
        kind: PEFT's name of the tuner.
        field: name of the recipe's field, for messages.
        blocks: numbers of the blocks to adapt; if given, `all-linear` becomes a list of names.

    Raises:
        MethodError: a name or pattern matches no layer, or a module that cannot be adapted.
    """
    from peftkit.methods.targets.layers import adaptable_classes, last_names, linear_names
    from peftkit.methods.targets.patterns import check_pattern

    kinds = adaptable_classes(kind)
    if isinstance(wanted, str):
        if wanted not in ("", ALL_LINEAR):
            check_pattern(model, wanted, head, kinds, field)
        return last_names(linear_names(model, head, kind)) if blocks else wanted
    _check_names(model, wanted, head, kinds, field)
    return list(wanted)


def named_modules(
    model: nn.Module,
    wanted: str | Sequence[str],
    head: tuple[str, ...],
    field: str = "method.target_modules",
) -> str | list[str]:
    """Returns `target_modules` like `linear_targets`, but accepts modules of any kind.

    Raises:
        MethodError: a name or pattern matches no module.
    """
    from peftkit.methods.targets.patterns import matched_modules

    if isinstance(wanted, str):
        if wanted not in ("", ALL_LINEAR):
            matched_modules(model, wanted, head, field)
        return wanted
    _check_names(model, wanted, head, (), field)
    return list(wanted)


def _check_names(
    model: nn.Module,
    wanted: Iterable[str],
    head: tuple[str, ...],
    kinds: tuple[type[Any], ...],
    field: str,
) -> None:
    """Raises MethodError if a name matches no module, or matches a module whose class is not in
    `kinds`. If `kinds` is empty, any class is accepted.
    """
    from peftkit.errors import MethodError, did_you_mean, quoted
    from peftkit.methods.targets.layers import ends_in, is_below, last_names, linear_names

    missing, other = [], []
    for name in wanted:
        matches = [
            m for n, m in model.named_modules() if not is_below(n, head) and ends_in(n, name)
        ]
        unfit = [module for module in matches if kinds and not isinstance(module, kinds)]
        if not matches or len(unfit) == len(matches):
            missing.append(name)
        if unfit:
            other.append((name, unfit[0]))
    layers = last_names(linear_names(model, head) if kinds else dict(model.named_modules()))
    known = f"its layers are {quoted(layers)}" + f"; `{ALL_LINEAR}` takes all of them" * bool(kinds)
    if other:
        name, module = other[0]
        holders = [n for n, _ in model.named_modules() if ends_in(n, name)]
        inside = last_names(n for n in linear_names(model, head) if is_below(n, holders))
        known = f"name the layers in it: {quoted(inside)}" if inside else known
        message = f"`{name}` is a {type(module).__name__}, which cannot be adapted"
        if set(missing) <= {name for name, _ in other}:
            raise MethodError(f"`{field}`: {message}", known)
    if missing:
        nearest = did_you_mean(missing[0], layers)
        raise MethodError(
            f"`{field}`: no layer of {type(model).__name__} is named {quoted(missing)}",
            f"{nearest} {known}".strip(),
        )
