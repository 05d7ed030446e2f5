"""Finds classes that were written for an earlier contract of their family."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from peftkit.errors import RecipeError


def check_hooks(cls: type[Any], family: type[Any], renamed: Mapping[str, str]) -> None:
    """Raises RecipeError if a class has hooks of an earlier contract.

    Args:
        renamed: names that the family's hooks had -> what is in their place.
    """
    wrong = [
        f"`{name}` is {renamed[name]} now" for name in sorted(renamed.keys() & vars(cls).keys())
    ]
    for name, own in vars(cls).items():
        hook = getattr(family, name, None)
        if not (inspect.isfunction(own) and inspect.isfunction(hook)):
            continue
        given, wanted = list(inspect.signature(own).parameters), _positional(hook)
        if _positional(own) != wanted or ("tokenizer" in given and "tokenizer" not in _names(hook)):
            wrong.append(f"`{name}` takes ({', '.join(_names(hook))}) now")
    if wrong:
        raise RecipeError(
            f"`{cls.__name__}` is written for an earlier peftkit: {'; '.join(wrong)}",
            f"the contract is the class `{family.__name__}`, {family.__module__}",
        )


def _names(hook: Any) -> list[str]:
    return list(inspect.signature(hook).parameters)


def _positional(hook: Any) -> int:
    """Parameters without a default, but those of `*args` and `**options`."""
    kinds = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    parameters = inspect.signature(hook).parameters.values()
    return sum(p.kind in kinds and p.default is p.empty for p in parameters)
