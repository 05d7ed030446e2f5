"""Which layers of a model a method adapts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat

ALL_LINEAR = "all-linear"
ValueT = TypeVar("ValueT")


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


def _expressions(value: dict[str, ValueT]) -> dict[str, ValueT]:
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


def without_blocks(pattern: dict[str, ValueT]) -> dict[str, ValueT]:
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
