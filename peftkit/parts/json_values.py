"""Values of JSON: read without repeated names, compared, made."""

from __future__ import annotations

import enum
import json
from typing import Any


class RepeatedName(ValueError):
    """An object of JSON gives a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"`{name}` is given more than once in one object")
        self.name = name


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """An object of JSON, for `json.loads`, which would take the last of two values in silence.

    Raises:
        RepeatedName: a name is given twice.
    """
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedName(next(name for name in names if names.count(name) > 1))
    return found


def differences(one: Any, other: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """The dotted places in which two JSON values differ, and what is there; of parts of different
    kinds, the kinds.
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [(place, one, other)]
    if one.get("kind") != other.get("kind"):
        return [(place, one.get("kind"), other.get("kind"))]
    return [
        found
        for name in dict.fromkeys((*one, *other))
        for found in differences(one.get(name), other.get(name), f"{place}.{name}".lstrip("."))
    ]


def as_json(value: Any) -> Any:
    """A value of a configuration as JSON has it: sets sorted, enums by their value.

    Raises:
        TypeError: it is nothing that JSON has.
    """
    return json.loads(json.dumps(value, default=_plainer))


def _plainer(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is no JSON value")
