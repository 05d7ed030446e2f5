"""Exports an adapter to other programs. Unsuitable adapters are refused before weights are loaded.
The output gets its final name only after it was read back and compared with the adapter.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from peftkit.atomic import output_path, refuse_taken
from peftkit.deploy.exporting.gguf.exports import export_gguf, export_gguf_lora, export_ollama
from peftkit.deploy.exporting.peft import export_peft, export_safetensors, export_vllm
from peftkit.deploy.exporting.request import FILES, Exported, Request, check_choices

TARGETS: dict[str, Callable[[Request], Exported]] = {
    "peft": export_peft,
    "vllm": export_vllm,
    "safetensors": export_safetensors,
    "gguf-lora": export_gguf_lora,
    "gguf": export_gguf,
    "ollama": export_ollama,
}
"""Target, one of `EXPORTS` -> the function that exports an adapter to it."""


def export(path: str, to: str, output: str, base: str = "", **options: Any) -> Exported:
    """Writes an adapter in the format of another program.

    Args:
        path: run folder, adapter folder, or a Hub id.
        to: one of `TARGETS`.
        output: new file or folder.
        base: path of the base; empty for the path in the recipe.
        options: further fields of `Request`.

    Raises:
        PeftkitError: the target is unknown or cannot hold the adapter, `output` exists, or the
            written output differs from the adapter and was deleted.
    """
    request = Request(path, output_path(output), base, **options)
    check_choices(to, request.quantize)
    refuse_taken(request.output, a_file=to in FILES)
    return TARGETS[to](request)
