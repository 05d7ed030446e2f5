"""What an export is asked for, and what it says of what it wrote."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.bases.packages import require
from peftkit.errors import RecipeError, did_you_mean, quoted

if TYPE_CHECKING:
    from peftkit.adapters.loading import OpenedAdapter

EXPORTS = ("peft", "vllm", "safetensors", "gguf-lora", "gguf", "ollama")
"""What `--to` may be."""
FILES = ("gguf-lora", "gguf")
"""Those of them that are one file; the others are folders."""
GGUF = ("gguf-lora", "gguf", "ollama")
"""Those that are made of GGUF files."""
KINDS = ("f32", "f16", "q8_0")
"""Of the matrices in a GGUF file."""


def check_choices(to: str, quantize: str) -> None:
    """Raises RecipeError unless there is such a target, and such a kind of number, and
    MissingPackageError if what writes it is not installed; needs no torch.

    Args:
        quantize: one of `KINDS`, or empty.
    """
    if to not in EXPORTS:
        raise RecipeError(f"`{to}` is none of {quoted(EXPORTS)}", did_you_mean(to, EXPORTS))
    if quantize not in ("", *KINDS):
        raise RecipeError(
            f"`--quantize {quantize}` is none of {quoted(KINDS)}",
            "llama.cpp's own `llama-quantize` makes the others of a `gguf` file",
        )
    if to in GGUF:
        require("gguf", f"`--to {to}` needs")


@dataclass(frozen=True)
class Request:
    """What is to be exported, and where to."""

    path: str
    """Run folder or adapter folder."""
    output: Path
    base: str = ""
    quantize: str = ""
    """One of `KINDS`; empty for what the target takes by itself."""
    tokenizer_from: str = ""
    """A GGUF file whose tokenizer is taken."""
    trust_remote_code: bool = False
    """Whether code that lies beside the base may run."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Fields that adapter_config.json lacks, and their values."""


@dataclass(frozen=True)
class Exported:
    """What was written."""

    to: str
    output: Path
    size: int
    """Bytes."""
    checked: Mapping[str, float | None]
    """What was compared with what was written, such as `largest_difference`, relative."""
    notes: tuple[str, ...] = ()
    """What whoever uses it should know."""

    def to_json(self) -> dict[str, object]:
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


def other_precision(adapter: OpenedAdapter, instead: str) -> tuple[str, ...]:
    """What to know of a LoRA that meets other weights than those of its training.

    Args:
        instead: the command that keeps those.
    """
    quantization = adapter.base.spec.quantization
    if quantization == "none":
        return ()
    return (
        f"it was trained beside {quantization} weights, and answers somewhat differently beside "
        f"others; `{instead}` keeps those of the training",
    )
