"""The base model of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from peftkit.parts.part import Part


class Base(Part):
    """A pretrained model, by name. Making this value reads no files."""

    name_or_path: str
    """A Hub id (`org/name`), a local folder, a .gguf file, or `packaged:NAME`."""
    revision: str = ""
    """Branch, tag or commit on the Hub; empty for its main branch."""
    quantization: Literal["none", "int8", "nf4", "fp4"] = "none"
    """How bitsandbytes stores the frozen linear layers (QLoRA, arXiv:2305.14314). Not needed if the
    base's files are quantized."""
    double_quant: bool = False
    """Whether the scales of nf4 and fp4 are quantized too, which saves 0.4 bits per weight."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Dtype of the computation, and of frozen weights that are not quantized. `auto` is bfloat16 on
    GPUs that support it, and float32 on all other devices."""
    added_tokens: tuple[str, ...] = ()
    """Tokens to add to the vocabulary; their embeddings are trained with any method."""
    chat_template: str = ""
    """Chat template for conversations: `chatml`, `plain` or a .jinja file; empty for the
    base's own template."""
    max_unknown_tokens: float = Field(default=0.3, ge=0, le=1)
    """Largest share of a split's tokens that may be unknown to the base's tokenizer; above it, the
    base does not read the language, and training is refused."""
    trust_remote_code: bool = False
    """Whether code stored with a Hub model may run."""

    @model_validator(mode="after")
    def _check(self) -> Base:
        if not self.name_or_path:
            raise ValueError("`name_or_path` is empty; give a Hub id, a folder or `packaged:NAME`")
        local = self.name_or_path.startswith(("packaged:", "/", "./", "../", "~"))
        if self.revision and local:
            raise ValueError(f"`revision` is for Hub ids, and `{self.name_or_path}` is not one")
        if self.double_quant and self.quantization not in ("nf4", "fp4"):
            raise ValueError(
                f"`double_quant` is for nf4 and fp4, and `quantization` is `{self.quantization}`"
            )
        tokens = self.added_tokens
        if wrong := [t for t in tokens if t.strip() != t or not t or tokens.count(t) > 1]:
            raise ValueError(
                f"`added_tokens`: {', '.join(map(repr, dict.fromkeys(wrong)))} is empty, given "
                "twice, or has a space at an end"
            )
        return self
