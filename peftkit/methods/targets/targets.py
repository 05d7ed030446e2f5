"""Types and checks of the fields that choose which layers a method adapts."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Annotated, Any, TypeVar

from pydantic import AfterValidator, BeforeValidator, Field, NonNegativeInt, PositiveFloat

ALL_LINEAR = "all-linear"
ValueT = TypeVar("ValueT")


def _names_or_pattern(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """Checks a pattern. Returns a plain name as a tuple, since PEFT reads a text as a pattern."""
    if isinstance(value, str) and value not in ("", ALL_LINEAR):
        if value.isidentifier():
            return (value,)
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is not a regular expression: {error}") from error
    return value


def _not_empty(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not value:
        raise ValueError("names no layer; `all-linear` takes every linear layer")
    return value


Targets = Annotated[str | tuple[str, ...], AfterValidator(_names_or_pattern)]
"""Names of modules, a regular expression for full names, or empty for the method's default."""
LinearTargets = Annotated[Targets, AfterValidator(_not_empty)]
"""Names of linear layers, a regular expression for full names, or `all-linear` for all of them."""


def _as_tuple(value: Any) -> Any:
    """Returns a single value as a tuple, and None as an empty tuple; both are valid in PEFT."""
    if value is None:
        return ()
    return (value,) if isinstance(value, str | int) else value


def regex_problem(expressions: Iterable[str]) -> str:
    """Returns what is wrong with the first invalid regular expression; empty if all are valid."""
    for expression in expressions:
        try:
            re.compile(expression)
        except re.error as error:
            return f"`{expression}` is not a regular expression: {error}"
    return ""


def _check_keys(value: dict[str, ValueT]) -> dict[str, ValueT]:
    if wrong := regex_problem(value):
        raise ValueError(wrong)
    return value


Blocks = Annotated[tuple[NonNegativeInt, ...], BeforeValidator(_as_tuple)]
"""Numbers of blocks, from 0; a single number is accepted too."""
Parents = Annotated[tuple[str, ...], BeforeValidator(_as_tuple)]
"""Names of the modules that hold blocks; a single name is accepted too."""
Ranks = Annotated[dict[str, Annotated[int, Field(ge=1, le=2**16)]], AfterValidator(_check_keys)]
"""Regular expression for the end of a layer's name -> the layer's rank."""
Alphas = Annotated[dict[str, PositiveFloat], AfterValidator(_check_keys)]
"""Regular expression for the end of a layer's name -> the layer's alpha."""


def has_block_number(name: str) -> bool:
    """Whether a module's name or a pattern has a block number: `h.1` has one, `fc1` has none."""
    return re.search(r"(?<!\w)\d+(?!\w)", name) is not None


def without_blocks(pattern: dict[str, ValueT]) -> dict[str, ValueT]:
    """Returns the pattern without the keys that contain a block number."""
    return {key: value for key, value in pattern.items() if not has_block_number(key)}


def check_blocks(
    targets: str | tuple[str, ...], blocks: tuple[int, ...], parents: tuple[str, ...]
) -> None:
    """Raises ValueError if PEFT would ignore the selection of blocks."""
    if parents and not blocks:
        raise ValueError("`layers_pattern` is for `layers_to_transform`; give both")
    if blocks and isinstance(targets, str) and targets != ALL_LINEAR:
        raise ValueError(
            "`layers_to_transform` needs names, or `all-linear`, as `target_modules`; put the "
            f"numbers into the pattern `{targets}`"
        )
