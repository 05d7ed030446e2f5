"""Exports an adapter to PEFT or vLLM, or merges it into a model for transformers."""

from __future__ import annotations

import shlex
from pathlib import Path

from peftkit.adapters.base_origin import origin
from peftkit.adapters.loading import OpenedAdapter, load_proven, open_adapter
from peftkit.adapters.resized_vocabulary import uses_own_tokenizer
from peftkit.adapters.saving import adapter_bytes
from peftkit.atomic import atomic_path
from peftkit.bases.devices import open_accelerator
from peftkit.bases.loading import empty_model
from peftkit.deploy.exporting.peft_folder import (
    Saved,
    check_expanded,
    check_for_peft,
    check_for_vllm,
    copy_peft_files,
    copy_tokenizer,
    rank_for_vllm,
    write_expanded,
)
from peftkit.deploy.exporting.request import Exported, Request, other_precision
from peftkit.deploy.lora_updates import read_updates, why_no_plain_lora
from peftkit.deploy.merging.folding import possible_advice
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import RecipeError


def export_peft(request: Request) -> Exported:
    """Writes a folder that PEFT loads without peftkit; gives a LoRA one rank and one scale."""
    _refuse_gguf_options(request)
    adapter = _open(request)
    config = adapter.peft_config
    with possible_advice(adapter):
        check_for_peft(config, adapter.folder, adapter.record.head)
    adapter.check_base()
    notes = (
        *_resizing(adapter),
        f"PeftModel.from_pretrained(base, {str(request.output)!r}), beside {_beside(adapter)}",
    )
    if not why_no_plain_lora(config, adapter.folder, head=True):
        saved = read_updates(adapter.folder, config, adapter.base, adapter.record.head)
        return _expanded("peft", request, adapter, saved, notes)
    with atomic_path(request.output) as folder:
        folder.mkdir()
        copy_peft_files(adapter.folder, folder, config)
        _copy_own(adapter, folder)
        difference = _compare_answers(folder, adapter)
    return Exported("peft", request.output, adapter_bytes(request.output), difference, notes)


def export_vllm(request: Request) -> Exported:
    """Writes a LoRA as a folder for vLLM's `--lora-modules`."""
    _refuse_gguf_options(request)
    adapter = _open(request)
    config = adapter.peft_config
    with possible_advice(adapter):
        check_for_vllm(config, adapter.folder, adapter.record.head)
        saved = read_updates(adapter.folder, config, adapter.base, adapter.record.head)
        rank = rank_for_vllm(saved[0])
    adapter.check_base()
    base = shlex.quote(adapter.base.hub_id or str(adapter.base.folder))
    output = shlex.quote(str(request.output))
    template = request.output / "chat_template.jinja"
    command = f"vllm serve {base} --enable-lora --max-lora-rank {rank}"
    command += f" --lora-modules {shlex.quote(request.output.name)}={output}"
    if adapter.record.base and (adapter.folder / template.name).is_file():
        command += f" --chat-template {shlex.quote(str(template))}"
    notes = (command, *other_precision(adapter, "peftkit merge"))
    return _expanded("vllm", request, adapter, saved, notes)


def export_safetensors(request: Request) -> Exported:
    """Writes the merged model, as `peftkit merge` does."""
    _refuse_gguf_options(request)
    report = merge_to(
        request.path, str(request.output), base=request.base,
        trust_remote_code=request.trust_remote_code, settings=request.settings,
    )  # fmt: skip
    checked = {
        "max_abs_dlogit": report.max_abs_dlogit,
        "kl": report.kl,
        "top1_agreement": report.top1_agreement,
    }
    return Exported("safetensors", request.output, adapter_bytes(request.output), checked)


def _open(request: Request) -> OpenedAdapter:
    trust = request.trust_remote_code
    return open_adapter(request.path, request.base, trust, request.settings)


def _beside(adapter: OpenedAdapter) -> str:
    """Describes the adapter's base in a note: its name and, if quantized, its precision."""
    quantization = adapter.base.spec.quantization
    name = f"`{adapter.base.hub_id or adapter.base.folder}`"
    return name if quantization == "none" else f"{name} in {quantization}"


def _resizing(adapter: OpenedAdapter) -> tuple[str, ...]:
    """Notes for users of PEFT if the adapter's vocabulary differs from the base's vocabulary."""
    notes = []
    if adapter.base.rows_in_files:
        rows = adapter.base.config.get_text_config().vocab_size
        notes.append(f"first: base.resize_token_embeddings({rows})")
    if not adapter.record.base and uses_own_tokenizer(adapter.folder, adapter.base):
        notes.append("read texts with the tokenizer in the folder, not with the base's")
    return tuple(notes)


def _expanded(
    to: str, request: Request, adapter: OpenedAdapter, saved: Saved, notes: tuple[str, ...]
) -> Exported:
    model = empty_model(adapter.base, adapter.record.head).model
    with atomic_path(request.output) as folder:
        folder.mkdir()
        rank, alpha = write_expanded(saved, adapter.peft_config, model, folder)
        _copy_own(adapter, folder)
        largest = check_expanded(saved, folder)
        checked = {"largest_difference": largest} | _compare_answers(folder, adapter)
    checked |= {"r": rank, "lora_alpha": alpha}
    return Exported(to, request.output, adapter_bytes(request.output), checked, notes)


def _copy_own(adapter: OpenedAdapter, folder: Path) -> None:
    """Copies the training's tokenizer and chat template, and writes a README about the base.

    For another tool's adapter, writes only the tokenizer, and only if it differs from the base's
    tokenizer.
    """
    if not adapter.record.base:
        if uses_own_tokenizer(adapter.folder, adapter.base):
            adapter.base.tokenizer.save_pretrained(folder)
        return
    copy_tokenizer(adapter.folder, folder)
    base, quantization = adapter.record.base, adapter.base.spec.quantization
    digests = ", ".join(f"`{name}` {digest}" for name, digest in base.files.items())
    precision = "" if quantization == "none" else f", quantized to {quantization} in training"
    source = f": {place}" if (place := origin(base)) else ""
    (folder / "README.md").write_text(
        f"# {folder.name}\n\nAn adapter in PEFT's format for `{base.known_name}`"
        f"{source}{precision}.\nThe base's files have the SHA-256 {digests}.\n",
        encoding="utf-8",
    )


def _compare_answers(folder: Path, adapter: OpenedAdapter) -> dict[str, float]:
    """Loads a written folder and compares its logits with the adapter's probes.

    Returns:
        A dict with the largest difference under `probes`; an empty dict if the adapter has no
        probes.

    Raises:
        AdapterError: the logits differ by more than the tolerance.
    """
    if not adapter.record.probes:
        return {}
    accelerator = open_accelerator(adapter.recipe.base)
    _, difference = load_proven(folder, adapter.recipe, adapter.base, adapter.record, accelerator)
    return {"probes": difference}


def _refuse_gguf_options(request: Request) -> None:
    if request.quantize or request.tokenizer_from:
        raise RecipeError(
            "`--quantize` and `--tokenizer-from` are for GGUF files", "leave them out"
        )
