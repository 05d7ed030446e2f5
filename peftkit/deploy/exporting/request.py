"""The request for an export with its allowed choices, and the result of an export."""

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
"""Targets of an export: the allowed values of `--to`."""
FILES = ("gguf-lora", "gguf")
"""Targets written as one file; other targets are written as folders."""
GGUF = ("gguf-lora", "gguf", "ollama")
"""Targets written as GGUF files."""
KINDS = ("f32", "f16", "q8_0")
"""Number formats of the matrices in a GGUF file."""


def check_choices(to: str, quantize: str) -> None:
    """Checks the target, the number format and the needed packages. Does not load torch.

    Args:
        quantize: one of `KINDS`; empty for the target's default.

    Raises:
        RecipeError: the target or the number format does not exist.
        MissingPackageError: a package that the target needs is not installed.
    """
    if to not in EXPORTS:
        raise RecipeError(f"`{to}` is none of {quoted(EXPORTS)}", did_you_mean(to, EXPORTS))
    if quantize not in ("", *KINDS):
        raise RecipeError(
            f"`--quantize {quantize}` is none of {quoted(KINDS)}",
            "make other formats from a `gguf` file with llama.cpp's `llama-quantize`",
        )
    if to in GGUF:
        require("gguf", f"`--to {to}` needs")


@dataclass(frozen=True)
class Request:
    """An export to make: the adapter, the number format and the output."""

    path: str
    """Run folder, adapter folder, or a Hub id."""
    output: Path
    base: str = ""
    quantize: str = ""
    """Number format, one of `KINDS`; empty for the target's default."""
    tokenizer_from: str = ""
    """GGUF file to copy the tokenizer from; empty for the base's tokenizer."""
    trust_remote_code: bool = False
    """Whether Python code in the base's folder may run."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """The user's values for fields that are missing in adapter_config.json."""


@dataclass(frozen=True)
class Exported:
    """A finished export."""

    to: str
    output: Path
    size: int
    """Size of the output in bytes."""
    checked: Mapping[str, float | None]
    """Results of checking the output, such as the relative `largest_difference`."""
    notes: tuple[str, ...] = ()
    """Commands to use the output, and warnings."""

    def to_json(self) -> dict[str, object]:
        """The result as `--json` prints it."""
        return {
            "to": self.to, "output": str(self.output), "bytes": self.size, **self.checked,
            "notes": list(self.notes),
        }  # fmt: skip


def stops_of(adapter: OpenedAdapter) -> tuple[int, ...]:
    """Ids of the tokens that end an answer."""
    ids = adapter.record.head.generation.get("eos_token_id") or []
    return tuple([ids] if isinstance(ids, int) else ids)


def is_plain(adapter: OpenedAdapter) -> bool:
    """Whether the model continues a text and uses no template."""
    return bool(getattr(getattr(adapter.recipe.task, "data", None), "text", ""))


def other_precision(adapter: OpenedAdapter, instead: str) -> tuple[str, ...]:
    """A warning that unquantized weights change the answers; empty if the base was not quantized.

    Args:
        instead: command of an export that keeps the weights used in training.
    """
    quantization = adapter.base.spec.quantization
    if quantization == "none":
        return ()
    return (
        f"it was trained on {quantization} weights and answers somewhat differently on others; "
        f"`{instead}` keeps the weights of the training",
    )
