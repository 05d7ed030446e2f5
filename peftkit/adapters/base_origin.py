"""Where a base comes from, in words and in code that are right on any machine: for cards."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from peftkit.packaged import MODELS, PREFIX, Packaged


def packaged_base(base: Mapping[str, Any]) -> Packaged | None:
    """The entry of a base that a Python package ships; None for another one.

    Args:
        base: as recorded in peftkit.json.
    """
    name = str(base.get("name"))
    return MODELS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def origin(base: Mapping[str, Any]) -> str:
    """What a packaged file is, and what its weights went through; empty for what is named by its
    Hub id.
    """
    entry = packaged_base(base)
    if entry is None or not entry.origin:
        return ""
    told = (
        f"the file `{entry.path}` of `{entry.origin}` on the Hub (revision "
        f"`{entry.origin_revision[:12]}`), which `{entry.install}` brings"
    )
    if entry.quantized:
        told += (
            f"; its weights had been quantized to {entry.quantized} before, so that they are near "
            f"those of `{entry.original}`, and not the same"
        )
    return told


def repository(base: Mapping[str, Any]) -> str:
    """The Hub's id of a base, or of the file that it is; empty if it is not known there."""
    entry = packaged_base(base)
    return str(base.get("hub_id") or (entry.origin if entry is not None else ""))


def loading_arguments(base: Mapping[str, Any]) -> tuple[str, list[str]]:
    """What `from_pretrained` is given for a base: its first argument, and further ones.

    Args:
        base: as recorded in peftkit.json.
    """
    entry = packaged_base(base)
    if entry is not None and entry.origin and base["quantization"] == "none":
        return entry.origin, [
            f"gguf_file={json.dumps(entry.path)}", f'revision="{entry.origin_revision}"'
        ]  # fmt: skip
    revision = [f'revision="{base["revision"]}"'] if base["revision"] else []
    return str(base["hub_id"] or "path/to/the/base"), revision


def dequantized_folder(base: Mapping[str, Any]) -> str:
    """How to get the folder of a GGUF file that transformers can load otherwise than by itself;
    empty for other bases, and where `loading_arguments` need none.
    """
    file = next((name for name in base["files"] if name.endswith(".gguf")), "")
    if not file or loading_arguments(base)[0] != "path/to/the/base":
        return ""
    named = base["name"] if packaged_base(base) else f"path/to/{file}"
    return (
        "The code below needs it as it was trained on, dequantized into a folder. This writes the "
        "folder, into peftkit's cache, and prints its path:\n\n"
        "```bash\n"
        'python -c "from peftkit import Base; from peftkit.bases.opening import open_base; '
        f"print(open_base(Base(name_or_path='{named}')).folder)\"\n"
        "```"
    )
