"""Text and code in model cards that say where a base comes from, without local paths."""

from __future__ import annotations

import json

from peftkit.bases.fingerprint import RecordedBase
from peftkit.data.packaged import MODELS, PREFIX, Packaged


def packaged_base(base: RecordedBase) -> Packaged | None:
    """The entry in `MODELS` of a base shipped in a Python package; None for any other base."""
    name = base.name
    return MODELS.get(name.removeprefix(PREFIX)) if name.startswith(PREFIX) else None


def origin(base: RecordedBase) -> str:
    """Markdown on a packaged base's source file and quantization; empty for other bases."""
    entry = packaged_base(base)
    if entry is None or not entry.quantized:
        return ""
    where = f", which `{entry.install}` installs"
    if entry.origin:
        revision = entry.origin_revision[:12]
        where = f" of `{entry.origin}` on the Hub (revision `{revision}`)" + where
    return (
        f"the file `{entry.path}`{where}; its weights were quantized to {entry.quantized} before, "
        f"so they are close but not equal to the weights of `{entry.original}`"
    )


def repository(base: RecordedBase) -> str:
    """The Hub repository of a base or of its packaged file; empty if unknown."""
    entry = packaged_base(base)
    return base.hub_id or (entry.origin if entry is not None else "")


def loading_arguments(base: RecordedBase) -> tuple[str, list[str]]:
    """The first argument of `from_pretrained` for a base, and its keyword arguments as code."""
    entry = packaged_base(base)
    if entry is not None and entry.origin and base.quantization == "none":
        return entry.origin, [
            f"gguf_file={json.dumps(entry.path)}", f'revision="{entry.origin_revision}"'
        ]  # fmt: skip
    revision = [f'revision="{base.revision}"'] if base.revision else []
    return base.hub_id or "path/to/the/base", revision


def dequantized_folder(base: RecordedBase) -> str:
    """Markdown that says how to dequantize a single-file base and write it into a folder; empty
    if `from_pretrained` can read the base's files.
    """
    entry = packaged_base(base)
    file = next((name for name in base.files if name.endswith(".gguf")), "")
    if entry is not None and entry.quantized:
        file = entry.path
    if not file or loading_arguments(base)[0] != "path/to/the/base":
        return ""
    path = base.name if entry else f"path/to/{file}"
    return (
        "The code below needs the base dequantized, as in training. This writes it into a "
        "folder of peftkit's cache and prints the path:\n\n"
        "```bash\n"
        'python -c "from peftkit import Base; from peftkit.bases.opening import open_base; '
        f"print(open_base(Base(name_or_path='{path}')).folder)\"\n"
        "```"
    )
