"""Refuses users' classes whose hooks (overridden methods) fit an earlier version of peftkit."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from peftkit.errors import RecipeError


def check_hooks(cls: type[Any], family: type[Any], renamed: Mapping[str, str]) -> None:
    """Raises RecipeError if a class has hooks that were renamed or take other parameters now.

    Args:
        renamed: former name of a hook -> its replacement.
    """
    wrong = [
        f"`{name}` is {renamed[name]} now" for name in sorted(renamed.keys() & vars(cls).keys())
    ]
    for name, method in vars(cls).items():
        hook = getattr(family, name, None)
        if not (inspect.isfunction(method) and inspect.isfunction(hook)):
            continue
        outdated = "tokenizer" in _names(method) and "tokenizer" not in _names(hook)
        if outdated or not _fits(method, hook):
            wrong.append(f"`{name}` takes ({', '.join(_names(hook))}) now")
    if wrong:
        raise RecipeError(
            f"`{cls.__name__}` is written for an earlier peftkit: {'; '.join(wrong)}",
            f"write it like the class `{family.__name__}` in {family.__module__}",
        )


def _names(hook: Any) -> list[str]:
    return list(inspect.signature(hook).parameters)


def _fits(method: Any, hook: Any) -> bool:
    """Whether a method can be called with all parameters of a hook, and also with only the
    parameters that have no default.
    """
    parameters = inspect.signature(hook).parameters.values()
    most = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    least = [p.name for p in parameters if p.name in most and p.default is p.empty]
    try:
        for names in (most, least):
            inspect.signature(method).bind(*names)
    except TypeError:
        return False
    return True
