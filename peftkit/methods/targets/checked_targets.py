"""Targets as PEFT takes them, each name and pattern checked against the model."""

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
    """`target_modules` as PEFT takes them: names and patterns are checked against the model, since
    PEFT passes over a misspelled name in silence as long as another one matches.

    Args:
        kind: PEFT's name of the tuner.
        field: of the recipe, for messages.
        blocks: numbers of the blocks to adapt; PEFT then wants the ends of names.

    Raises:
        MethodError: a name that no such layer has, or a pattern that fits none, or more.
    """
    from peftkit.methods.targets.layers import adaptable, last_names, linear_names
    from peftkit.methods.targets.patterns import check_pattern

    kinds = adaptable(kind)
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
    """As `linear_targets`, for modules of any kind.

    Raises:
        MethodError: a name that no module has, or a pattern that fits none.
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
    """Raises MethodError unless each name is the end of those of layers of these kinds alone; any
    module will do if no kinds are given.
    """
    from peftkit.errors import MethodError, did_you_mean, quoted
    from peftkit.methods.targets.layers import ends_in, is_below, last_names, linear_names

    missing, other = [], []
    for name in wanted:
        found = [m for n, m in model.named_modules() if not is_below(n, head) and ends_in(n, name)]
        unfit = [module for module in found if kinds and not isinstance(module, kinds)]
        if not found or len(unfit) == len(found):
            missing.append(name)
        if unfit:
            other.append((name, unfit[0]))
    layers = last_names(linear_names(model, head) if kinds else dict(model.named_modules()))
    known = f"its layers are {quoted(layers)}" + f"; `{ALL_LINEAR}` takes all of them" * bool(kinds)
    if other:
        name, module = other[0]
        holders = [n for n, _ in model.named_modules() if ends_in(n, name)]
        inside = last_names(n for n in linear_names(model, head) if is_below(n, holders))
        known = f"name what is in it: {quoted(inside)}" if inside else known
        told = f"`{name}` is a {type(module).__name__}, which cannot be adapted"
        if set(missing) <= {name for name, _ in other}:
            raise MethodError(f"`{field}`: {told}", known)
    if missing:
        nearest = did_you_mean(missing[0], layers)
        raise MethodError(
            f"`{field}`: no layer of {type(model).__name__} is named {quoted(missing)}",
            f"{nearest} {known}".strip(),
        )
