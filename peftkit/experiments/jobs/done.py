"""What came of a part of an experiment, and the JSON that is kept of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from peftkit.parts import records

Given = TypeVar("Given")


@dataclass(frozen=True)
class Done(Generic[Given]):
    """What a part gave, or why it gave nothing."""

    value: Given | None
    """None if it failed."""
    failed: str = ""
    """Why it failed."""
    died: bool = False
    """Whether it may go better another time."""
    seconds_taken: float = 0.0

    @property
    def reason(self) -> str:
        """The first line of why it failed."""
        return self.failed.split("\n")[0]

    def to_json(self) -> Any:
        """As the part's file has it: the fields of the value beside those of this one."""
        value = {} if self.value is None else records.to_json(self.value)
        return {"failed": self.failed, **value, "seconds_taken": self.seconds_taken}


def read_done(kind: type[Given], value: Any) -> Done[Given]:
    """From the JSON of a part.

    Args:
        kind: of what it gives.

    Raises:
        ValueError: it is no such JSON.
    """
    head = records.from_json(_Head, value)
    given = None if head.failed else records.from_json(kind, value)
    return Done(given, head.failed, seconds_taken=head.seconds_taken)


@dataclass(frozen=True)
class _Head:
    failed: str
    seconds_taken: float
