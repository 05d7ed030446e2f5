"""Dataclasses as JSON: what a record is in a file, and in memory again."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from pydantic import TypeAdapter

RecordT = TypeVar("RecordT")
IF_SET = {"written": "if set"}
"""Metadata of a field that the JSON lacks where its value is None."""


def to_json(value: Any) -> Any:
    """A value as JSON has it: a dataclass as an object, its fields in order; a tuple as a list."""
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
    """A dataclass from JSON. A field that is missing takes its default, an unknown one is left out.

    Raises:
        ValueError: a field without a default is missing, or one has a value of another type.
    """
    return TypeAdapter(kind).validate_python(value)
