"""Which layers of a model a method adapts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat

if TYPE_CHECKING:
    from torch import nn

ALL_LINEAR = "all-linear"


def _names_or_pattern(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A single plain name becomes a list of one; PEFT would match it as a pattern, in vain."""
    if isinstance(value, str) and value not in ("", ALL_LINEAR):
        if value.isidentifier():
            return (value,)
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
    return value


def _not_empty(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value:
        raise ValueError("names no layer; `all-linear` takes every linear layer")
    return value


Targets = Annotated[str | tuple[str, ...], AfterValidator(_names_or_pattern)]
"""Names of modules, a regular expression over full names, or empty for what the method knows."""
LinearTargets = Annotated[Targets, AfterValidator(_not_empty)]
"""The same for linear layers; `all-linear` for all of them."""


def _as_tuple(value: Any) -> Any:
    """One value, or none, as PEFT takes them too."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int) else value


def wrong_expression(expressions: Iterable[str]) -> str:
    """What is wrong with the first one that is no regular expression; empty if all are."""
    for expression in expressions:
        try:
            re.compile(expression)
        except re.error as error:
            return f"`{expression}` is no regular expression: {error}"
    return ""


def _expressions(value: dict[str, Any]) -> dict[str, Any]:
    if wrong := wrong_expression(value):
        raise ValueError(wrong)
    return value


Blocks = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_as_tuple)]
"""Numbers of blocks, from 0; a single one may stand for itself."""
Parents = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Names of the modules that hold blocks; a single one may stand for itself."""
Ranks = Annotated[dict[str, Annotated[int, Field(ge=1, le=2**16)]], AfterValidator(_expressions)]
Alphas = Annotated[dict[str, PositiveFloat], AfterValidator(_expressions)]
"""End of a layer's name, a regular expression -> its own value."""


def names_a_block(name: str) -> bool:
    """Whether a module's name, or a pattern for names, has the number of a block in it; the 1 of
    `fc1` is none.
    """
    return re.search(r"(?<!\w)\d+(?!\w)", name) is not None


def without_blocks(pattern: dict[str, Any]) -> dict[str, Any]:
    """A pattern without the keys that name blocks."""
    return {key: value for key, value in pattern.items() if not names_a_block(key)}


def blocks_and_targets_fit(
    targets: str | tuple[str, ...], blocks: tuple[int, ...], parents: tuple[str, ...]
) -> None:
    """Raises ValueError where PEFT would not look at the blocks."""
    if parents and not blocks:
        raise ValueError("`layers_pattern` is for `layers_to_transform`; give both")
    if blocks and isinstance(targets, str) and targets != ALL_LINEAR:
        raise ValueError(
            "`layers_to_transform` is for `target_modules` that are names, or `all-linear`; put "
            f"the numbers into the pattern `{targets}`"
        )


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
    from peftkit.methods.layers import adaptable, last_names, linear_names
    from peftkit.methods.patterns import check_pattern

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
    from peftkit.methods.patterns import matched_modules

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
    from peftkit.methods.layers import ends_in, is_below, last_names, linear_names

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
