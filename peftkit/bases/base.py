"""The base model of a recipe."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from peftkit.parts.part import Part


class Base(Part):
    """A pretrained model, by name. Building this value reads and loads nothing."""

    name_or_path: str
    """A Hub id (`org/name`), a local folder, a .gguf file, or `packaged:NAME`."""
    revision: str = ""
    """Branch, tag or commit on the Hub; empty for its main branch."""
    quantization: Literal["none", "int8", "nf4", "fp4"] = "none"
    """Storage of the frozen linear layers, by bitsandbytes (QLoRA, arXiv:2305.14314). A base that
    is quantized already says so itself."""
    double_quant: bool = False
    """Whether the scales of nf4 and fp4 are quantized too: 0.4 bits less for each weight."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """Of the computation and of the frozen weights that are not quantized; auto is float32 on CPU
    and bfloat16 where the device has it."""
    added_tokens: tuple[str, ...] = ()
    """Tokens that the vocabulary gets in addition; their embeddings are trained with any method."""
    chat_template: str = ""
    """How conversations are written for the base: `chatml`, `plain` or a .jinja file; empty for the
    template that comes with it."""
    trust_remote_code: bool = False
    """Whether code that comes with a Hub model may run."""

    @model_validator(mode="after")
    def _check(self) -> Base:
        if not self.name_or_path:
            raise ValueError("`name_or_path` is empty; give a Hub id, a folder or `packaged:NAME`")
        local = self.name_or_path.startswith(("packaged:", "/", "./", "../", "~"))
        if self.revision and local:
            raise ValueError(f"`revision` is for Hub ids, and `{self.name_or_path}` is none")
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
