"""Exports adapters to llama.cpp and Ollama."""

from __future__ import annotations

import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

from peftkit.adapters.loading import OpenedAdapter, open_adapter
from peftkit.atomic import atomic_path
from peftkit.data.head import Head
from peftkit.deploy.exporting.gguf.families import Layout, family_of
from peftkit.deploy.exporting.gguf.writing import Value
from peftkit.deploy.exporting.request import Exported, Request, is_plain, other_precision, stops_of
from peftkit.deploy.merging.folding import check_mergeable, merge_opened, possible_advice
from peftkit.errors import AdapterError, RecipeError

ADAPTER_FILE, MODEL_FILE = "adapter.gguf", "model.gguf"
"""Names of the adapter's and the merged model's file in a folder for Ollama."""


def open_for_export(request: Request) -> OpenedAdapter:
    """Opens a language model's adapter and its base; does not check that the base is unchanged.

    Raises:
        AdapterError: the folder is not an adapter, or its model does not write text.
    """
    trust = request.trust_remote_code
    adapter = open_adapter(request.path, request.base, trust, request.settings)
    check_writes(adapter.record.head)
    return adapter


def check_writes(head: Head) -> None:
    """Raises AdapterError unless the model writes text, as every export to GGUF requires."""
    if not head.goes_on:
        kind = "classification head" if head.output == "pooled" else f"head for {head.task_type}"
        raise AdapterError(
            f"the model has a {kind}, and GGUF is for models that write text",
            "load it with `peftkit.load`, or `peftkit merge` it for transformers",
        )


def write_checked(
    path: Path, write: Callable[[Path], None], check: Callable[[Path], Any], a_file: bool = True
) -> Any:
    """Writes a file or folder and checks it; deletes it if the writing or the check fails.

    Returns:
        The result of the check.
    """
    with atomic_path(path, a_file) as partial:
        write(partial)
        return check(partial)


def lora_layout(adapter: OpenedAdapter) -> Layout:
    """Checks that a GGUF LoRA can hold the adapter; returns the GGUF layout of its base.

    Raises:
        AdapterError: a GGUF LoRA cannot hold the adapter.
    """
    from peftkit.deploy.exporting.gguf.lora import check_expressible

    layout = Layout.of(adapter.base.config, family_of(adapter.base.config))
    with possible_advice(adapter):
        check_expressible(adapter.peft_config, adapter.folder)
    return layout


def export_gguf_lora(request: Request) -> Exported:
    """Writes a GGUF LoRA file, for use with the base's own GGUF file."""
    if request.quantize == "q8_0":
        raise RecipeError(
            "the LoRA's A and B are too narrow for q8_0, in which 32 numbers share a scale",
            "use `--quantize f16`, or leave it out for f32",
        )
    if request.tokenizer_from:
        raise RecipeError("a GGUF adapter has no tokenizer", "leave out `--tokenizer-from`")
    adapter = open_for_export(request)
    difference = write_lora_file(adapter, request.output, request.quantize or "f32")
    size = request.output.stat().st_size
    checked = {"largest_difference": difference}
    notes = other_precision(adapter, "--to gguf")
    return Exported("gguf-lora", request.output, size, checked, notes)


def write_lora_file(adapter: OpenedAdapter, file: Path, kind: str) -> float:
    """Writes a GGUF LoRA file; returns its largest relative difference from the adapter.

    Raises:
        PeftkitError: a GGUF LoRA cannot hold the adapter, or the file differs from the adapter.
    """
    from peftkit.deploy.exporting.gguf.lora import check_lora, read_lora, write_lora

    layout = lora_layout(adapter)
    with possible_advice(adapter):
        lora = read_lora(adapter.folder, adapter.peft_config, adapter.base, layout)
    adapter.check_base()
    difference: float = write_checked(
        file, lambda partial: write_lora(partial, lora, kind), lambda p: check_lora(p, lora)
    )
    return difference


def export_gguf(request: Request) -> Exported:
    """Writes a GGUF model: the base with the adapter folded into it."""
    adapter = open_for_export(request)
    difference = write_model_file(adapter, request, request.output)
    checked = {"largest_difference": difference}
    return Exported("gguf", request.output, request.output.stat().st_size, checked)


def check_model_file(
    adapter: OpenedAdapter, tokenizer_from: str = "", kind: str = "f16", name: str = "model"
) -> tuple[Layout, dict[str, Value]]:
    """Checks a GGUF export; returns the merged model's layout and metadata. Reads no weights.

    Raises:
        PeftkitError: GGUF cannot hold the base, or the adapter cannot be merged.
    """
    from peftkit.deploy.exporting.gguf.model import check_writable, model_fields, tokenizer_fields

    layout, stops = check_writable(adapter.base), stops_of(adapter)
    check_mergeable(adapter)
    tokenizer = tokenizer_fields(adapter.base, stops, tokenizer_from, is_plain(adapter))
    fields = model_fields(adapter.base.config, kind, adapter.recipe.name or name)
    return layout, {**fields, **tokenizer}


def write_model_file(adapter: OpenedAdapter, request: Request, file: Path) -> float:
    """Writes a GGUF model; returns its largest relative difference from the merged model.

    Raises:
        PeftkitError: GGUF cannot hold the base, the adapter cannot be merged, or the file differs
            from the merged model.
    """
    from peftkit.deploy.exporting.gguf.model import check_model, write_model

    kind, stops = request.quantize or "f16", stops_of(adapter)
    layout, fields = check_model_file(adapter, request.tokenizer_from, kind, file.stem)
    adapter.check_base()
    model = merge_opened(adapter)
    difference: float = write_checked(
        file,
        lambda partial: write_model(partial, model, layout, fields, kind),
        lambda partial: check_model(partial, model, adapter.base, stops, fields),
    )
    return difference


def check_ollama(
    adapter: OpenedAdapter, whole: bool = False, tokenizer_from: str = ""
) -> tuple[Any, Path | None, bool]:
    """Checks an export to Ollama. Reads no weights.

    Args:
        whole: whether to merge the adapter even if it could be a separate file.

    Returns:
        The Modelfile's settings; the base's GGUF file, or None if the adapter will be merged; and
        whether llama.cpp itself adds a beginning-of-text token to prompts.

    Raises:
        PeftkitError: Ollama cannot express the template, or GGUF cannot hold the model.
    """
    from peftkit.deploy.exporting.gguf import ollama
    from peftkit.deploy.exporting.gguf.tokenizer import adds_bos, writes_bos

    tokenizer, task, plain = adapter.base.tokenizer, adapter.recipe.task, is_plain(adapter)
    bos = adds_bos(tokenizer, tokenizer_from or adapter.base.source)
    fits = plain or not tokenizer.chat_template or not bos or writes_bos(tokenizer)
    source = adapter.base.source if fits and not whole and _stays_apart(adapter) else None
    bos = bos and fits  # the merged model's file says to add none
    system = task.system_prompt
    settings = ollama.settings_of(
        tokenizer, adapter.record.head.generation, stops_of(adapter),
        system if system.strip() else "", bos, plain,
    )  # fmt: skip
    if source is None:
        check_model_file(adapter, tokenizer_from)
    return settings, source, bos


def export_ollama(request: Request) -> Exported:
    """Writes a folder with a Modelfile and the adapter; Ollama adds the adapter to the base's GGUF.

    If the base has no GGUF file or was quantized in training, if the method is not LoRA, or if
    q8_0 or another tokenizer is requested, the folder holds the merged model instead.
    """
    from peftkit.deploy.exporting.gguf import ollama

    adapter = open_for_export(request)
    whole = request.quantize == "q8_0" or bool(request.tokenizer_from)
    settings, source, bos = check_ollama(adapter, whole, request.tokenizer_from)
    differences: list[float] = []

    def write(folder: Path) -> None:
        folder.mkdir()
        if source is not None:
            differences.append(
                write_lora_file(adapter, folder / ADAPTER_FILE, request.quantize or "f32")
            )
            text = ollama.modelfile(settings, str(source.resolve()), f"./{ADAPTER_FILE}")
        else:
            differences.append(write_model_file(adapter, request, folder / MODEL_FILE))
            text = ollama.modelfile(settings, f"./{MODEL_FILE}")
        (folder / ollama.MODELFILE).write_text(text, encoding="utf-8")

    def check(folder: Path) -> None:
        file = folder / ollama.MODELFILE
        ollama.check_modelfile(file, settings, adapter.base.tokenizer, bos)

    write_checked(request.output, write, check, a_file=False)
    size = sum(file.stat().st_size for file in request.output.iterdir())
    checked = {"largest_difference": differences[0], "merged": source is None}
    notes = [f"ollama create NAME -f {shlex.quote(str(request.output / ollama.MODELFILE))}"]
    if source is not None:
        notes.append(f"the folder needs the base at its present place, `{source.resolve()}`")
    return Exported("ollama", request.output, size, checked, tuple(notes))


def _stays_apart(adapter: OpenedAdapter) -> bool:
    """Whether Ollama can add the adapter, as a separate file, to the base's own GGUF file."""
    from peftkit.deploy.exporting.gguf.lora import read_lora

    if adapter.base.source is None or adapter.base.spec.quantization != "none":
        return False
    try:
        read_lora(adapter.folder, adapter.peft_config, adapter.base, lora_layout(adapter))
    except AdapterError:
        return False
    return True
