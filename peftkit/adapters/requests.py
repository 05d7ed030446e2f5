"""What an export is asked for, and what it says of what it wrote."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.adapters.loading import OpenedAdapter


@dataclass(frozen=True)
class Request:
    """What is to be exported, and where to."""

    path: str
    """Run folder or adapter folder."""
    output: Path
    base: str = ""
    quantize: str = ""
    """`f32`, `f16` or `q8_0`; empty for what the target takes by itself."""
    tokenizer_from: str = ""
    """A GGUF file whose tokenizer is taken."""
    trust_remote_code: bool = False
    """Whether code that lies beside the base may run."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    to: str
    output: Path
    size: int
    """Bytes."""
    checked: dict[str, Any]
    """What was compared with what was written, such as `largest_difference`, relative."""
    notes: tuple[str, ...] = ()
    """What whoever uses it should know."""

    def to_json(self) -> dict[str, Any]:
        """For `--json`."""
        return {
            "to": self.to, "output": str(self.output), "bytes": self.size, **self.checked,
            "notes": list(self.notes),
        }  # fmt: skip


def stops_of(adapter: OpenedAdapter) -> tuple[int, ...]:
    """Ids of the tokens at which an answer ends."""
    found = adapter.record.head.generation.get("eos_token_id") or []
    return tuple([found] if isinstance(found, int) else found)


def is_plain(adapter: OpenedAdapter) -> bool:
    """Whether it goes on with a text, and no template is used."""
    return bool(getattr(getattr(adapter.recipe.task, "data", None), "text", ""))
