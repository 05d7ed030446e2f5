"""Reports all problems of a recipe at once, each with the field, the value and a suggestion."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, get_args

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from peftkit.errors import RecipeError, did_you_mean, quoted
from peftkit.parts.json_values import unrepeated
from peftkit.parts.part import Collector, OpenPart, Part, current_collector


@contextlib.contextmanager
def all_problems(what: str) -> Iterator[None]:
    """Collects the problems of parts made inside the block; raises them as one error at its end."""
    with collected() as collector:
        try:
            yield
        except Exception:
            if not collector.failed:  # after a failure, it can come from a hollow part
                raise
    if problems := problems_of(collector):
        raise problems_error(what, problems)


@contextlib.contextmanager
def collected() -> Iterator[Collector]:
    """Collects the errors of parts made inside the block, instead of raising the errors."""
    token = current_collector.set(collector := Collector())
    try:
        yield collector
    finally:
        current_collector.reset(token)


def problems_of(collector: Collector) -> list[str]:
    """One line for each problem of the collected parts."""
    return [
        problem
        for part, error in collector.failed
        for problem in describe(error, type(part), collector.path(part))
    ]


def parse(model: type[Part], text: str, what: str) -> Any:
    """Reads a part from JSON text; raises every problem at once as one `RecipeError`."""
    try:
        value = json.loads(text, object_pairs_hook=unrepeated)
    except (ValueError, RecursionError) as error:  # its text has the line and column
        raise RecipeError(f"{what} is not JSON: {error}") from error
    if not isinstance(value, dict):
        raise RecipeError(f"{what} holds {type(value).__name__}, not an object with fields")
    strange = [name for name in value if name not in model.model_fields]
    if len(strange) > max(3, len(value) - len(strange)):  # another kind of file, not a typo
        raise RecipeError(
            f"{what} is not a {model.__name__}: it has {quoted(strange[:4])} and more",
            f"fields of a {model.__name__} are {quoted(sorted(model.model_fields))}",
        )
    try:
        return model.model_validate(value)
    except ValidationError as error:
        raise problems_error(what, describe(error, model, (), value)) from error


def problems_error(what: str, problems: list[str]) -> RecipeError:
    """Returns one error for all problems: a single line, or their number and a line for each."""
    if len(problems) == 1:
        return RecipeError(f"{what}: {problems[0]}")
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RecipeError(f"{what}: {len(problems)} problems\n{lines}")


def describe(
    error: ValidationError, model: type[Part], path: tuple[str, ...], value: object = None
) -> list[str]:
    """One line for each problem: the dotted field, the value found, and a suggestion.

    Args:
        path: the place of `model` in the recipe.
        value: the validated value, whose `kind`s decide which fields are suggested.
    """
    lines: dict[str, None] = {}
    for details in error.errors():
        lines[_describe_one(details, model, path, value)] = None
    return list(lines)


def _describe_one(
    details: ErrorDetails, model: type[Part], path: tuple[str, ...], value: object
) -> str:
    location = details["loc"]
    tags = ("str", "int", "float", "bool")  # pydantic names the branch of a union too
    names = [str(n) for n in location if n not in tags and not re.search(r"[\[(-]", str(n))]
    where = ".".join((*path, *names)) or "recipe"
    shown = _shown(details["input"])
    if details["type"] == "extra_forbidden":
        fields = _fields_at(model, value, location[:-1])
        guess = did_you_mean(str(location[-1]), fields)
        known = f"fields here are {quoted(sorted(fields), 30)}"
        return f"{where}: no such field (found {shown}); {guess or known}"
    if details["type"] == "missing":
        return f"{where}: required, but not given"
    if details["type"] == "unknown_kind":
        return f"{where}: {details['msg']}"
    message = details["msg"].removeprefix("Value error, ")
    message = message.replace("Input should", "should", 1)
    if details["type"] == "value_error" and isinstance(details["input"], Part | Mapping):
        return f"{where}: {message}"
    return f"{where}: {message} (found {shown})"


def _shown(value: object) -> str:
    text = repr(value)
    return f"`{text}`" if len(text) <= 60 else f"`{text[:57]}...`"


def _fields_at(model: type[Part], value: object, location: tuple[int | str, ...]) -> set[str]:
    """Field names of the part at `location` below `model`, following the kinds in `value`."""
    for name in location:
        value = value.get(name) if isinstance(value, Mapping) else None
        info = model.model_fields.get(str(name))
        if info is None:
            return set()
        candidates = [info.annotation, *get_args(info.annotation)]
        parts = [c for c in candidates if isinstance(c, type) and issubclass(c, Part)]
        if not parts:
            return set()
        model = parts[0]
        if issubclass(model, OpenPart) and isinstance(value, Mapping):
            model = model.kinds.get(str(value.get("kind")), model)
    names = set(model.model_fields)
    return names | {"kind"} if issubclass(model, OpenPart) else names
