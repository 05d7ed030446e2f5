"""An opened base: its configuration and tokenizer, without weights."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.bases.base import Base


@dataclass(frozen=True)
class OpenedBase:
    """A base before its weights: everything that can be checked cheaply."""

    spec: Base
    """As the recipe says; quantized as its files are, if they are."""
    folder: Path
    """Local folder that transformers loads: of the user, the Hub cache or the GGUF cache."""
    config: Any
    """transformers' PreTrainedConfig."""
    tokenizer: Any
    """transformers' tokenizer; it has a padding token, and knows the base's length limit."""
    hub_id: str = ""
    """The Hub repository that holds exactly these bytes, if there is one."""
    revision: str = ""
    """Its commit, as far as it is known."""
    source: Path | None = None
    """The GGUF file the folder was dequantized from."""
    added_ids: tuple[int, ...] = ()
    """Of `spec.added_tokens`, consecutive."""
    rows_in_files: int = 0
    """Of the embeddings in the files, where an adapter was trained on others, of which `config` has
    the number; 0 where they are the same."""

    @property
    def name(self) -> str:
        """How a person calls it."""
        return self.hub_id or self.spec.name_or_path

    @property
    def prequantized(self) -> bool:
        """Whether the files hold quantized weights already."""
        return getattr(self.config, "quantization_config", None) is not None
