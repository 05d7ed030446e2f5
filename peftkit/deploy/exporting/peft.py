"""The exports in PEFT's and transformers' own formats: for PEFT alone, for vLLM, merged."""

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
    copy_as_it_is,
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
    """A folder that plain PEFT loads; any LoRA in the form that all loaders understand."""
    _refuse_gguf_options(request)
    found = _open(request)
    config = found.peft_config
    with possible_advice(found):
        check_for_peft(config, found.folder, found.record.head)
    found.check_base()
    notes = (
        *_resizing(found),
        f"PeftModel.from_pretrained(base, {str(request.output)!r}), beside {_beside(found)}",
    )
    if not why_no_plain_lora(config, found.folder, head=True):
        saved = read_updates(found.folder, config, found.base, found.record.head)
        return _expanded("peft", request, found, saved, notes)
    with atomic_path(request.output) as folder:
        folder.mkdir()
        copy_as_it_is(found.folder, folder, config)
        _copy_own(found, folder)
        difference = _compare_answers(folder, found)
    return Exported("peft", request.output, adapter_bytes(request.output), difference, notes)


def export_vllm(request: Request) -> Exported:
    """A folder for vLLM's `--lora-modules`."""
    _refuse_gguf_options(request)
    found = _open(request)
    config = found.peft_config
    with possible_advice(found):
        check_for_vllm(config, found.folder, found.record.head)
        saved = read_updates(found.folder, config, found.base, found.record.head)
        rank = rank_for_vllm(saved[0])
    found.check_base()
    base = shlex.quote(found.base.hub_id or str(found.base.folder))
    output = shlex.quote(str(request.output))
    template = request.output / "chat_template.jinja"
    told = f"vllm serve {base} --enable-lora --max-lora-rank {rank}"
    told += f" --lora-modules {shlex.quote(request.output.name)}={output}"
    if found.record.base and (found.folder / template.name).is_file():
        told += f" --chat-template {shlex.quote(str(template))}"
    notes = (told, *other_precision(found, "peftkit merge"))
    return _expanded("vllm", request, found, saved, notes)


def export_safetensors(request: Request) -> Exported:
    """The merged model, as `peftkit merge` writes it."""
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


def _beside(found: OpenedAdapter) -> str:
    """The base in words, and its precision."""
    quantization = found.base.spec.quantization
    name = f"`{found.base.hub_id or found.base.folder}`"
    return name if quantization == "none" else f"{name} in {quantization}"


def _resizing(found: OpenedAdapter) -> tuple[str, ...]:
    """What has to be done to the base before PEFT loads an adapter of another vocabulary."""
    notes = []
    if found.base.rows_in_files:
        rows = found.base.config.get_text_config().vocab_size
        notes.append(f"first: base.resize_token_embeddings({rows})")
    if not found.record.base and uses_own_tokenizer(found.folder, found.base):
        notes.append("texts are read with the tokenizer in the folder, not with the base's")
    return tuple(notes)


def _expanded(
    to: str, request: Request, found: OpenedAdapter, saved: Saved, notes: tuple[str, ...]
) -> Exported:
    model = empty_model(found.base, found.record.head).model
    with atomic_path(request.output) as folder:
        folder.mkdir()
        rank, alpha = write_expanded(saved, found.peft_config, model, folder)
        _copy_own(found, folder)
        largest = check_expanded(saved, folder)
        checked = {"largest_difference": largest} | _compare_answers(folder, found)
    checked |= {"r": rank, "lora_alpha": alpha}
    return Exported(to, request.output, adapter_bytes(request.output), checked, notes)


def _copy_own(found: OpenedAdapter, folder: Path) -> None:
    """A word on the base, and the tokenizer and the template of the training; what another tool has
    left beside an adapter was not judged, but for a tokenizer that it needs.
    """
    if not found.record.base:
        if uses_own_tokenizer(found.folder, found.base):
            found.base.tokenizer.save_pretrained(folder)
        return
    copy_tokenizer(found.folder, folder)
    base, quantization = found.record.base, found.base.spec.quantization
    digests = ", ".join(f"`{name}` {digest}" for name, digest in base.files.items())
    precision = "" if quantization == "none" else f", quantized to {quantization} in training"
    told = f": {found_at}" if (found_at := origin(base)) else ""
    (folder / "README.md").write_text(
        f"# {folder.name}\n\nAn adapter in PEFT's format for `{base.known_name}`"
        f"{told}{precision}.\nThe base's files have the SHA-256 {digests}.\n",
        encoding="utf-8",
    )


def _compare_answers(folder: Path, found: OpenedAdapter) -> dict[str, float]:
    """Loads a written folder through PEFT and compares it with the probes of the training, where
    there are some.

    Raises:
        AdapterError: it answers differently.
    """
    if not found.record.probes:
        return {}
    accelerator = open_accelerator(found.recipe.base)
    _, difference = load_proven(folder, found.recipe, found.base, found.record, accelerator)
    return {"probes": difference}


def _refuse_gguf_options(request: Request) -> None:
    if request.quantize or request.tokenizer_from:
        raise RecipeError(
            "`--quantize` and `--tokenizer-from` are for GGUF files", "leave them out"
        )
