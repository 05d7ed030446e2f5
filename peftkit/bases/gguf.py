"""Converts GGUF files of causal language models to folders that transformers loads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from peftkit.bases.packages import require
from peftkit.errors import BaseModelError


def convert_gguf(file: Path, folder: Path) -> None:
    """Writes the dequantized model and the tokenizer of a GGUF file into a folder.

    Raises:
        BaseModelError: transformers cannot read the file.
        MissingPackageError: package `gguf` is not installed.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    require("gguf", f"`{file.name}` needs")  # transformers' message is less clear
    options = {"gguf_file": file.name}
    try:
        tokenizer = AutoTokenizer.from_pretrained(file.parent, **options)
        model: Any = AutoModelForCausalLM.from_pretrained(
            file.parent, dtype=torch.float32, **options
        )
    except Exception as error:  # transformers' GGUF reader raises many types
        raise BaseModelError(
            f"`{file}` cannot be read as a GGUF model: {error}",
            "use the original safetensors model, or a GGUF file of an architecture that "
            "transformers lists under `GGUF`",
        ) from error
    # save_pretrained refuses a model marked as loaded from GGUF
    for owner, attribute in (
        (model, "hf_quantizer"),
        (model, "quantization_method"),
        (model.config, "quantization_config"),
    ):
        if hasattr(owner, attribute):
            delattr(owner, attribute)
    model.hf_quantizer = None
    model.is_quantized = False
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
