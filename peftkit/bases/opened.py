"""A base whose configuration and tokenizer are opened; weights are not loaded."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base


@dataclass(frozen=True)
class OpenedBase:
    """A base whose weights are not loaded yet, with all that can be checked without them."""

    spec: Base
    """The recipe's base. If its files are quantized, `quantization` is taken from them."""
    folder: Path
    """Local folder to load from: the user's, or one in the Hub cache or the GGUF cache."""
    config: Any
    """The base's configuration, transformers' PreTrainedConfig."""
    tokenizer: Any
    """The base's tokenizer, with a padding token and the base's length limit."""
    hub_id: str = ""
    """The Hub repository with exactly these bytes; empty if there is none."""
    revision: str = ""
    """Commit on the Hub; empty if unknown."""
    source: Path | None = None
    """The GGUF file that was dequantized into `folder`; None for other bases."""
    added_ids: tuple[int, ...] = ()
    """Consecutive ids of `spec.added_tokens`."""
    rows_in_files: int = 0
    """Number of embedding rows in the base's files if an adapter changed the number in `config`; 0
    if no adapter did."""

    @property
    def name(self) -> str:
        """The Hub id; the name or path in the recipe if there is no Hub id."""
        return self.hub_id or self.spec.name_or_path

    @property
    def prequantized(self) -> bool:
        """Whether the base's files hold quantized weights."""
        return getattr(self.config, "quantization_config", None) is not None
