"""Lists the export commands that work for an adapter; a run's receipt shows them."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping
from pathlib import Path

from peftkit.adapters.loading import OpenedAdapter
from peftkit.deploy.exporting.gguf.exports import (
    check_model_file,
    check_ollama,
    check_writes,
    lora_layout,
)
from peftkit.deploy.exporting.gguf.lora import read_lora
from peftkit.deploy.exporting.peft_folder import check_for_peft, check_for_vllm, rank_for_vllm
from peftkit.deploy.lora_updates import read_updates
from peftkit.deploy.merging.folding import check_mergeable


def commands(adapter: OpenedAdapter, run: Path) -> dict[str, str]:
    """Program -> its export command, for each program that can use the adapter.

    Args:
        run: path of the run folder, as written in the commands.
    """
    by_program = {}
    for name, (options, ending, check) in WAYS.items():
        try:
            check(adapter)
        except Exception:  # a finished run must not fail for an export that nobody asked for
            continue
        output = shlex.quote(f"{run}{ending}")
        command, _, target = options.partition(" ")
        by_program[name] = f"peftkit {command} {shlex.quote(str(run))} {target}--output {output}"
    return by_program


def _check_peft(adapter: OpenedAdapter) -> None:
    check_for_peft(adapter.peft_config, adapter.folder, adapter.record.head)


def _check_vllm(adapter: OpenedAdapter) -> None:
    config, head = adapter.peft_config, adapter.record.head
    check_for_vllm(config, adapter.folder, head)
    rank_for_vllm(read_updates(adapter.folder, config, adapter.base, head)[0])


def _check_gguf_lora(adapter: OpenedAdapter) -> None:
    check_writes(adapter.record.head)
    read_lora(adapter.folder, adapter.peft_config, adapter.base, lora_layout(adapter))


def _check_gguf(adapter: OpenedAdapter) -> None:
    check_writes(adapter.record.head)
    check_model_file(adapter)


def _check_ollama(adapter: OpenedAdapter) -> None:
    check_writes(adapter.record.head)
    check_ollama(adapter)


WAYS: Mapping[str, tuple[str, str, Callable[[OpenedAdapter], None]]] = {
    "one model, for transformers": ("merge ", "-merged", check_mergeable),
    "PEFT alone": ("export --to peft ", "-peft", _check_peft),
    "vLLM": ("export --to vllm ", "-vllm", _check_vllm),
    "llama.cpp, beside the base": ("export --to gguf-lora ", "-lora.gguf", _check_gguf_lora),
    "llama.cpp, one model": ("export --to gguf ", ".gguf", _check_gguf),
    "Ollama": ("export --to ollama ", "-ollama", _check_ollama),
}
"""Program -> (command with `--to`, suffix of the output's name, check). The check raises if the
adapter cannot be exported to the program."""
