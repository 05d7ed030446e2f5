"""llama.cpp's names for the parts of a model, and its order of the rows of q and k.

transformers rotates number i of a head together with number i + d/2 (rotary embedding of halves);
llama.cpp's `llama` rotates neighbours, 2i with 2i + 1, and orders the rows of q and k accordingly:

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
    """An architecture of llama.cpp."""

    architecture: str
    """llama.cpp's name."""
    rotates_neighbours: bool = False
    """Whether its rotary embedding rotates neighbours, so that rows of q and k are reordered."""


FAMILIES = {
    "llama": Family("llama", rotates_neighbours=True),
    "mistral": Family("llama", rotates_neighbours=True),
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
        AdapterError: the model type is not one of them.
    """
    if config.model_type not in known:
        raise AdapterError(
            f"the base is a {config.model_type} model, and GGUF is written for {quoted(known)}",
            "write a model for llama.cpp's own converter with `peftkit merge`",
        )
    return FAMILIES[config.model_type]


@dataclass(frozen=True)
class Layout:
    """Names of tensors and order of rows of one model in a GGUF file."""

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
        """GGUF's name of a module, such as `blk.0.attn_q`; empty if it has none."""
        return self.names.get_name(module) or ""

    def heads(self, name: str) -> int:
        """Number of heads by which a tensor's rows are reordered; 0 if they are not."""
        if not self.family.rotates_neighbours:
            return 0
        part = name.split(".")[2] if name.startswith("blk.") else ""
        return {"attn_q": self.num_heads, "attn_k": self.num_key_value_heads}.get(part, 0)

    def ordered(self, name: str, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """Transformers' rows (out, ...) in the order of llama.cpp."""
        heads = self.heads(name)
        if not heads:
            return rows
        halves = rows.reshape(heads, 2, len(rows) // heads // 2, *rows.shape[1:])
        return np.ascontiguousarray(halves.swapaxes(1, 2)).reshape(rows.shape)
