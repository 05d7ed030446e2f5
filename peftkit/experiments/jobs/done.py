"""The result of one part of a comparison, and its JSON form."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from peftkit.parts import records

Result = TypeVar("Result")


@dataclass(frozen=True)
class Done(Generic[Result]):
    """The result of a part, or the reason why the part failed."""

    value: Result | None
    """The result; None if the part failed."""
    failed: str = ""
    """Why the part failed; empty if it did not."""
    died: bool = False
    """Whether the part's process died; if so, another try may succeed."""
    seconds_taken: float = 0.0

    @property
    def reason(self) -> str:
        """The first line of `failed`."""
        return self.failed.split("\n")[0]

    def to_json(self) -> Any:
        """The content of the part's file: `failed`, `seconds_taken` and the result's fields."""
        value = {} if self.value is None else records.to_json(self.value)
        return {"failed": self.failed, **value, "seconds_taken": self.seconds_taken}


def read_done(kind: type[Result], value: Any) -> Done[Result]:
    """Makes a Done from the JSON that `Done.to_json` made.

    Args:
        kind: type of the result.

    Raises:
        ValueError: the JSON does not hold a result of this type.
    """
    head = records.from_json(_Head, value)
    result = None if head.failed else records.from_json(kind, value)
    return Done(result, head.failed, seconds_taken=head.seconds_taken)


@dataclass(frozen=True)
class _Head:
    failed: str
    seconds_taken: float
