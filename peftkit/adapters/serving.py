"""What a finished adapter can be given to, as commands for the receipt."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from peftkit.adapters.gguf.exports import check_writes, lora_layout
from peftkit.adapters.gguf.model import check_writable
from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.peft_folder import check_for_peft, check_for_vllm
from peftkit.adapters.record import peft_config
from peftkit.errors import MethodError, PeftkitError


def commands(adapter: OpenedAdapter, run: Path) -> dict[str, str]:
    """What it is for -> the command, of all that this adapter can be written as.

    Args:
        run: the run folder, as a person names it.
    """
    ways: dict[str, tuple[str, Callable[[OpenedAdapter], object]]] = {
        "one model, for transformers": ("merge {run} --output {run}-merged", _check_mergeable),
        "PEFT alone": ("export {run} --to peft --output {run}-peft", _check_peft),
        "vLLM": ("export {run} --to vllm --output {run}-vllm", _check_vllm),
        "llama.cpp, beside the base": (
            "export {run} --to gguf-lora --output {run}-lora.gguf", _check_gguf_lora,
        ),
        "llama.cpp, one model": ("export {run} --to gguf --output {run}.gguf", _check_gguf),
        "Ollama": ("export {run} --to ollama --output {run}-ollama", _check_ollama),
    }  # fmt: skip
    found = {}
    for name, (command, check) in ways.items():
        try:
            check(adapter)
        except PeftkitError:
            continue
        found[name] = f"peftkit {command.format(run=run)}"
    return found


def _check_mergeable(adapter: OpenedAdapter) -> None:
    if reason := adapter.recipe.method.supports_merging(adapter.base.spec):
        raise MethodError(reason)


def _check_peft(adapter: OpenedAdapter) -> None:
    check_for_peft(peft_config(adapter.folder), adapter.folder)


def _check_vllm(adapter: OpenedAdapter) -> None:
    check_for_vllm(peft_config(adapter.folder), adapter.folder, adapter.record.head)


def _check_gguf_lora(adapter: OpenedAdapter) -> None:
    check_writes(adapter.record.head)
    lora_layout(adapter)


def _check_gguf(adapter: OpenedAdapter) -> None:
    check_writes(adapter.record.head)
    _check_mergeable(adapter)
    check_writable(adapter.base)


def _check_ollama(adapter: OpenedAdapter) -> None:
    try:
        _check_gguf(adapter)
    except PeftkitError:
        _check_gguf_lora(adapter)
