"""Dequantizes GGUF bases, once, to fp32 safetensors in the user's cache.

transformers cannot quantize a GGUF base with bitsandbytes, and reads GGUF slowly (25 s for 135M
parameters), so the dequantized model is cached under the file's digest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from peftkit.bases.packages import require
from peftkit.data.packaged import sha256_of
from peftkit.errors import BaseModelError


def cache_folder() -> Path:
    """Folder of the dequantized models: `$XDG_CACHE_HOME/peftkit`, else `~/.cache/peftkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peftkit"


def dequantized(file: Path) -> Path:
    """Returns the folder of a GGUF file's dequantized model; the first call writes it atomically.

    Raises:
        BaseModelError: transformers cannot read the file.
        MissingPackageError: package `gguf` is not installed.
    """
    folder = cache_folder() / "gguf" / sha256_of(file)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            _convert(file, partial)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has written it
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder


def _convert(file: Path, folder: Path) -> None:
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
