"""Which layers of a model a method adapts."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import AfterValidator

if TYPE_CHECKING:
    from torch import nn


def _names_or_pattern(value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    """A single plain name becomes a list of one; PEFT would match it as a pattern, in vain."""
    if isinstance(value, str) and value not in ("", "all-linear"):
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


def linear_targets(
    model: nn.Module, wanted: str | tuple[str, ...], head: tuple[str, ...]
) -> str | list[str]:
    """`target_modules` of linear layers as PEFT takes them: names are checked against the model.

    Raises:
        MethodError: a name that no layer has, or a pattern that fits none.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    return named_modules(model, wanted, head, (nn.Linear, nn.Embedding, nn.Conv2d, Conv1D))


def named_modules(
    model: nn.Module,
    wanted: str | Sequence[str],
    head: tuple[str, ...],
    kinds: tuple[type[Any], ...] | None = None,
) -> str | list[str]:
    """Names or a pattern as PEFT takes them; PEFT itself passes over a misspelled name in silence
    as long as another one matches.

    Args:
        kinds: of the modules that may be meant; any if not given.

    Raises:
        MethodError: a name that no such module has, or a pattern that fits none.
    """
    from peftkit.errors import MethodError, quoted

    known = [
        name
        for name, module in model.named_modules()
        if name and (kinds is None or isinstance(module, kinds)) and not name.startswith(head)
    ]
    if isinstance(wanted, str):
        every = [name for name, _ in model.named_modules()]  # PEFT may adapt further kinds
        if wanted not in ("", "all-linear") and not any(re.fullmatch(wanted, n) for n in every):
            raise MethodError(
                f"`method.target_modules`: `{wanted}` matches no layer of {type(model).__name__}",
                f"a pattern is for full names, such as {quoted(known[-2:])}",
            )
        return wanted
    missing = [w for w in wanted if not any(n == w or n.endswith("." + w) for n in known)]
    if missing:
        last = sorted({name.rsplit(".", 1)[-1] for name in known} - set("0123456789"))
        raise MethodError(
            f"`method.target_modules`: no layer of {type(model).__name__} is named "
            f"{quoted(missing)}",
            f"its layers are {quoted(last)}"
            + ("; `all-linear` takes all of them" if kinds else ""),
        )
    return list(wanted)


def linear_names(model: nn.Module, head: tuple[str, ...]) -> list[str]:
    """Full names of all linear layers but those of the head and the output layer."""
    from torch import nn
    from transformers.pytorch_utils import Conv1D

    base: Any = model
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear | Conv1D)
        and module is not base.get_output_embeddings()
        and not name.startswith(head)
    ]
