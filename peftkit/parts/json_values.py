"""Makes and compares JSON values, and refuses objects that repeat a name."""

from __future__ import annotations

import enum
import json
from typing import Any


class RepeatedName(ValueError):
    """A JSON object has a name twice."""

    def __init__(self, name: str) -> None:
        super().__init__(f"`{name}` is given more than once in one object")
        self.name = name


def unrepeated(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Makes a JSON object for `json.loads`. Without this hook, the last of two values for a name
    would silently win.

    Raises:
        RepeatedName: a name is given twice.
    """
    value = dict(pairs)
    if len(value) < len(pairs):
        names = [name for name, _ in pairs]
        raise RepeatedName(next(name for name in names if names.count(name) > 1))
    return value


def differences(one: Any, other: Any, place: str = "") -> list[tuple[str, Any, Any]]:
    """Lists where two JSON values differ: (dotted place, one value, other value). Parts of
    different `kind`s count as one difference, with their kinds as the values.
    """
    if not (isinstance(one, dict) and isinstance(other, dict)):
        return [] if one == other else [(place, one, other)]
    if one.get("kind") != other.get("kind"):
        return [(place, one.get("kind"), other.get("kind"))]
    return [
        difference
        for name in dict.fromkeys((*one, *other))
        for difference in differences(one.get(name), other.get(name), f"{place}.{name}".lstrip("."))
    ]


def as_json(value: Any) -> Any:
    """Converts a configuration's value to a JSON value: sets to sorted lists, enums to their
    values.

    Raises:
        TypeError: JSON has no such value.
    """
    return json.loads(json.dumps(value, default=_to_plain))


def _to_plain(value: Any) -> Any:
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, set | frozenset):
        return sorted(value)
    raise TypeError(f"{type(value).__name__} is not a JSON value")
