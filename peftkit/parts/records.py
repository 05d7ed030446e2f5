"""Writes dataclasses as JSON, and reads them back."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

RecordT = TypeVar("RecordT")
IF_SET = {"written": "if set"}
"""Metadata of a field that is left out of the JSON if its value is None."""


def to_json(value: Any) -> Any:
    """Makes a JSON value: a dataclass becomes an object with its fields in order, a tuple
    a list.
    """
    if is_dataclass(value):
        pairs = ((field, getattr(value, field.name)) for field in fields(value))
        return {
            field.name: to_json(part)
            for field, part in pairs
            if part is not None or field.metadata != IF_SET
        }
    if isinstance(value, dict):
        return {name: to_json(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [to_json(part) for part in value]
    return value


def from_json(kind: type[RecordT], value: Any) -> RecordT:
    """Makes a dataclass from JSON. A missing field takes its default, an unknown one is ignored.

    Raises:
        ValueError: a field without a default is missing, or a value has another type.
    """
    return TypeAdapter(kind).validate_python(value)
