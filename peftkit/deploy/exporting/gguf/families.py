"""What llama.cpp calls the parts of a model, and in which order it keeps the rows of q and k.

transformers turns number i of a head together with number i + d/2 (rotary embedding of halves);
llama.cpp's `llama` turns neighbours, 2i with 2i + 1. Its q and k have their rows in that order:

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
    """An architecture as llama.cpp has it."""

    architecture: str
    """llama.cpp's name."""
    turns_neighbours: bool = False
    """Whether its rotary embedding turns neighbours, so that rows of q and k change places."""


FAMILIES = {
    "llama": Family("llama", turns_neighbours=True),
    "mistral": Family("llama", turns_neighbours=True),
    "qwen2": Family("qwen2"),
    "qwen3": Family("qwen3"),
    "gemma": Family("gemma"),
    "gemma2": Family("gemma2"),
    "gemma3_text": Family("gemma3"),
}
"""transformers' `model_type` -> llama.cpp's."""


def family_of(config: Any, known: tuple[str, ...] = tuple(FAMILIES)) -> Family:
    """The family of a transformers configuration.

    Args:
        known: the model types that are possible here.

    Raises:
        AdapterError: it is none of them.
    """
    if config.model_type not in known:
        raise AdapterError(
            f"the base is a {config.model_type} model, and GGUF is written for {quoted(known)}",
            "`peftkit merge` writes a model that llama.cpp's own converter reads",
        )
    return FAMILIES[config.model_type]


@dataclass(frozen=True)
class Layout:
    """Names and orders of rows of one model in a GGUF file."""

    family: Family
    names: Any
    """gguf's TensorNameMap."""
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
        """GGUF's name of a module, such as `blk.0.attn_q`; empty where it has none."""
        return self.names.get_name(module) or ""

    def heads(self, name: str) -> int:
        """Heads among which the rows of a tensor change places; 0 where they do not."""
        if not self.family.turns_neighbours:
            return 0
        part = name.split(".")[2] if name.startswith("blk.") else ""
        return {"attn_q": self.num_heads, "attn_k": self.num_key_value_heads}.get(part, 0)

    def ordered(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Rows (out, ...) of transformers in the order of llama.cpp."""
        heads = self.heads(name)
        if not heads:
            return rows
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
