"""The result of a part of an experiment, and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from peftkit.parts import records

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """A part's result, or why it failed."""

    value: Result | None
    """None if it failed."""
    failed: str = ""
    """Why it failed."""
    died: bool = False
    """Whether it may succeed when it is tried again."""
    seconds_taken: float = 0.0

    @property
    def reason(self) -> str:
        """The first line of `failed`."""
        return self.failed.split("\n")[0]

    def to_json(self) -> Any:
        """The content of the part's file: the fields of the result beside `failed` and the time."""
        value = {} if self.value is None else records.to_json(self.value)
        return {"failed": self.failed, **value, "seconds_taken": self.seconds_taken}


def read_done(kind: type[Result], value: Any) -> Done[Result]:
    """Reads the JSON of a part.

    Args:
        kind: type of the result.

    Raises:
        ValueError: the JSON is not that of such a part.
    """
    head = records.from_json(_Head, value)
    result = None if head.failed else records.from_json(kind, value)
    return Done(result, head.failed, seconds_taken=head.seconds_taken)


@dataclass(frozen=True)
class _Head:
    failed: str
    seconds_taken: float
