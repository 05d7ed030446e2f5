"""Exports an adapter to other programs. What can be refused is refused before weights are loaded;
the output is read back and compared before it gets its name.
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
"""Each of `EXPORTS` -> the function that writes it."""


def export(path: str, to: str, output: str, base: str = "", **options: Any) -> Exported:
    """Writes an adapter in the format of another program.

    Args:
        path: run folder, adapter folder, or a Hub id.
        to: one of `TARGETS`.
        output: new file or folder.
        base: where the base is, if not where the recipe says.
        options: further fields of `Request`.

    Raises:
        PeftkitError: the target does not exist or cannot express the adapter, `output` exists, or
            what was written is not what was trained; then nothing is left behind.
    """
    request = Request(path, output_path(output), base, **options)
    check_choices(to, request.quantize)
    refuse_taken(request.output, a_file=to in FILES)
    return TARGETS[to](request)
