"""Names a model's tensors, and orders the rows of q and k, as llama.cpp does.

Rotary embedding rotates pairs of rows of a head of size d. transformers pairs rows i and i + d/2.
llama.cpp's `llama` pairs rows 2i and 2i + 1, so it stores the rows of q and k in another order:

    row 2i of a head = transformers' row i,  row 2i + 1 = transformers' row i + d/2

https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.errors import AdapterError, quoted


@dataclass(frozen=True)
class Family:
    """An architecture that llama.cpp supports."""

    architecture: str
    """llama.cpp's name of the architecture."""
    rotates_neighbours: bool = False
    """Whether rotary embedding pairs neighbouring rows, so that rows of q and k are reordered."""


FAMILIES = {
    "llama": Family("llama", rotates_neighbours=True),
    "mistral": Family("llama", rotates_neighbours=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma"),
    "gemma2": Family("gemma2"),
    "gemma3_text": Family("gemma3"),
}
"""transformers' `model_type` -> llama.cpp's architecture."""


def family_of(config: Any, known: tuple[str, ...] = tuple(FAMILIES)) -> Family:
    """llama.cpp's architecture for a transformers configuration.

    Args:
        known: values of `model_type` that the caller supports.

    Raises:
        AdapterError: the configuration's model type is not in `known`.
    """
    if config.model_type not in known:
        raise AdapterError(
            f"the base is a {config.model_type} model; GGUF can be written for {quoted(known)}",
            "write a model for llama.cpp's own converter with `peftkit merge`",
        )
    return FAMILIES[config.model_type]


@dataclass(frozen=True)
class Layout:
    """The names and row order that GGUF uses for one model's tensors."""

    family: Family
    names: Any
    """A `gguf.TensorNameMap`: transformers' names of tensors -> GGUF's names."""
    num_heads: int
    num_key_value_heads: int

    @staticmethod
    def of(config: Any, family: Family) -> Layout:
        """The layout of a model with this transformers configuration."""
        import gguf

        kinds = {name: kind for kind, name in gguf.MODEL_ARCH_NAMES.items()}
        names = gguf.get_tensor_name_map(kinds[family.architecture], config.num_hidden_layers)
        heads = config.num_attention_heads
        return Layout(family, names, heads, getattr(config, "num_key_value_heads", None) or heads)

    def name(self, module: str) -> str:
        """GGUF's name of a module, such as `blk.0.attn_q`; empty if GGUF has none."""
        return self.names.get_name(module) or ""

    def heads(self, name: str) -> int:
        """Number of heads in a tensor whose rows are reordered per head; 0 for other tensors."""
        if not self.family.rotates_neighbours:
            return 0
        part = name.split(".")[2] if name.startswith("blk.") else ""
        return {"attn_q": self.num_heads, "attn_k": self.num_key_value_heads}.get(part, 0)

    def ordered(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Reorders a tensor's rows, (out, ...), from transformers' order to llama.cpp's."""
        heads = self.heads(name)
        if not heads:
            return rows
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
