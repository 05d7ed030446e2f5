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
        of_old = "tokenizer" in _names(own) and "tokenizer" not in _names(hook)
        if of_old or not _takes(own, hook):
            wrong.append(f"`{name}` takes ({', '.join(_names(hook))}) now")
    if wrong:
        raise RecipeError(
            f"`{cls.__name__}` is written for an earlier peftkit: {'; '.join(wrong)}",
            f"the contract is the class `{family.__name__}`, {family.__module__}",
        )


def _names(hook: Any) -> list[str]:
    return list(inspect.signature(hook).parameters)


def _takes(own: Any, hook: Any) -> bool:
    """Whether a function can be called as a hook is: with all of its parameters, and without those
    that have a default.
    """
    parameters = inspect.signature(hook).parameters.values()
    given = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    least = [p.name for p in parameters if p.name in given and p.default is p.empty]
    try:
        for names in (given, least):
            inspect.signature(own).bind(*names)
    except TypeError:
        return False
    return True
