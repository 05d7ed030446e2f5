"""An opened base: its configuration and tokenizer, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base


@dataclass(frozen=True)
class OpenedBase:
    """A base before its weights are loaded: all that can be checked cheaply."""

    spec: Base
    """The recipe's base, with the quantization of its files, if they are quantized."""
    folder: Path
    """Local folder that transformers loads: the user's, or one in the Hub or GGUF cache."""
    config: Any
    """transformers' PreTrainedConfig."""
    tokenizer: Any
    """transformers' tokenizer, with a padding token and the base's length limit."""
    hub_id: str = ""
    """The Hub repository that holds exactly these bytes, if there is one."""
    revision: str = ""
    """The Hub commit, if known."""
    source: Path | None = None
    """The GGUF file the folder was dequantized from."""
    added_ids: tuple[int, ...] = ()
    """Ids of `spec.added_tokens`, consecutive."""
    rows_in_files: int = 0
    """Rows of the embeddings in the files if an adapter was trained on another number, which
    `config` has; 0 if they are the same."""

    @property
    def name(self) -> str:
        """The Hub id, else the name or path in the recipe."""
        return self.hub_id or self.spec.name_or_path

    @property
    def prequantized(self) -> bool:
        """Whether the files hold quantized weights."""
        return getattr(self.config, "quantization_config", None) is not None
