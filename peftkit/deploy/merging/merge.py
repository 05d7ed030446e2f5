"""Writes a merged model as a folder, and proves that it is the one that was trained.

Into other weights than those that were trained on, for those who want them, the certificate says
what that costs.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from torch import nn

from peftkit.adapters.loading import OpenedAdapter, load_proven, open_adapter
from peftkit.adapters.probes import (
    synthetic_inputs,
)
from peftkit.adapters.record import tokenizer_sha256
from peftkit.atomic import place, placed, refuse_taken, write_json
from peftkit.bases.base import Base
from peftkit.bases.devices import (
    give_back_memory,
    open_accelerator,
    quick_collections,
)
from peftkit.bases.loading import empty_model, load_weights, model_class
from peftkit.bases.opening import open_base
from peftkit.bases.padding import put_back_padding, save_tokenizer
from peftkit.bases.quantizing import count_quantized, quantized_empty
from peftkit.data.encoded import Examples
from peftkit.data.splits import load_splits
from peftkit.deploy.lora_updates import why_no_plain_lora
from peftkit.deploy.merging.card import write_merged_card
from peftkit.deploy.merging.certificate import Answers, Questions, ask
from peftkit.deploy.merging.folding import check_mergeable, folded, merged_model, vocabulary_of
from peftkit.deploy.merging.reporting import make_report
from peftkit.errors import AdapterError, MethodError, PeftkitError
from peftkit.methods.peft_layout import rescale_lora
from peftkit.reports.merge_report import Into, MergeReport

REPORT = "merge_report.json"


@quick_collections()
def merge_to(
    path: str,
    output: str,
    into: Into = "trained",
    scale: float = 1.0,
    base: str = "",
    trust_remote_code: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    settings: Mapping[str, object] | None = None,
) -> MergeReport:
    """Writes the merged model as a folder that transformers loads, with its certificate.

    The folder is written under another name, opened again by transformers alone, compared with the
    adapter on its base, and only then gets its name.

    Args:
        path: a run folder, an adapter folder, or a Hub id.
        output: a folder that does not exist yet, or is empty.
        into: the weights that were trained on, dequantized if they were quantized; the original
            ones, as they were before they were quantized; or the trained ones, quantized again.
        scale: strength of what a LoRA adds: W + scale * s B A; a head stays as it was trained.
        base: where the base is, if not where the recipe says.
        trust_remote_code: as for `open_adapter`.
        tell: called with what is being done.
        settings: as for `open_adapter`.

    Raises:
        MethodError: what was trained cannot be merged, or not so.
        AdapterError: as `merge`; nothing is left behind.
        OutputError: the folder holds something, or cannot be written.
    """
    final = place(output)
    refuse_taken(final)
    begun = time.monotonic()
    adapter = open_adapter(path, base, trust_remote_code, settings)
    _check(adapter, into, scale)
    questions = _questions(adapter)
    with placed(final) as folder:
        answers = _write(adapter, folder, into, scale, questions, tell)
        report = make_report(adapter, folder, into, scale, questions, answers)
        report = replace(report, seconds=time.monotonic() - begun)
        write_json(folder / REPORT, report.to_json())
        write_merged_card(folder, final.name, adapter.record, report)
    return report


def _check(adapter: OpenedAdapter, into: Into, scale: float) -> None:
    """Raises MethodError if an adapter cannot be merged so, AdapterError if the base is another."""
    check_mergeable(adapter)
    _check_into(adapter, into)
    _check_scale(adapter, scale)
    adapter.check_base()


def _write(
    found: OpenedAdapter,
    folder: Path,
    into: Into,
    scale: float,
    questions: Questions,
    tell: Callable[[str], None],
) -> tuple[Answers, Answers]:
    """Writes the merged model; gives the adapter's answers and those of what was written. No more
    than one model is held at a time.
    """
    accelerator = open_accelerator(found.base.spec)
    tell("asking the adapter on its base")
    trained: nn.Module | None = _trained(found, scale, accelerator)
    assert trained is not None
    first = ask(trained, questions, accelerator, tell)
    tell(f"merging into the {into} weights")
    if found.base.spec.quantization == "none":
        _save(folded(trained, found.recipe), found, folder)
        del trained  # it is the merged one now
    else:
        trained = None
        give_back_memory()
        _save(_merged_elsewhere(found, into, scale, accelerator.device), found, folder)
    give_back_memory()
    if into == "requantized":
        _requantize(folder, found, accelerator.device)
    tell("asking the merged model, opened again")
    second = ask(_reopened(folder, found, accelerator), questions, accelerator, tell)
    return first, second


def _check_into(found: OpenedAdapter, into: Into) -> None:
    """Raises MethodError where a base has no such weights."""
    spec = found.base.spec
    if into != "trained" and spec.quantization == "none":
        raise MethodError(
            f"`--into {into}`: the base was not quantized, so that the weights it was trained on "
            "are the original ones",
            "leave `--into` out",
        )
    if into == "original" and found.base.prequantized:
        raise MethodError(
            f"`--into original`: the files of `{found.base.name}` are quantized already, and hold "
            "no other weights",
            "leave `--into` out, which merges into the dequantized ones",
        )
    if into == "requantized":
        shapes = quantized_empty(found.base, empty_model(found.base, found.record.head))
        if not count_quantized(shapes.model, shapes.head).taken:
            raise MethodError(
                f"`--into requantized`: bitsandbytes takes no layer of `{found.base.name}`, which "
                "was not quantized in training either",
                "leave `--into` out",
            )


def _check_scale(found: OpenedAdapter, scale: float) -> None:
    """Raises MethodError where an adapter has no strength but its own."""
    config, head = found.peft_config, found.record.head
    if scale == 1:
        return
    if reason := why_no_plain_lora(config, found.folder, head=head.trained):
        raise MethodError(
            f"`--scale`: {reason}, and only what LoRA adds to a weight has a strength",
            "leave `--scale` out",
        )


def _questions(found: OpenedAdapter) -> Questions:
    record, opened = found.record, found.base
    probes = tuple(probe.input_ids for probe in record.probes)
    if not probes:
        probes = synthetic_inputs(opened.config, vocabulary_of(opened), ())
    validation, reason = _validation(found)
    pad = opened.tokenizer.pad_token_id
    return Questions(found.recipe, record.head, pad, probes, validation, reason)


def _validation(found: OpenedAdapter) -> tuple[Examples | None, str]:
    """The validation split of the training, or why it is not at hand."""
    if not found.record.base:
        return None, "another tool saved the adapter, and it names no data"
    task = found.recipe.task
    try:
        splits, _ = load_splits(task, found.recipe.split_seed)
        encoded = task.encode(splits, found.base.tokenizer)
    except PeftkitError:  # whose message may hold a path or a row, and the report is published
        return None, "the data of the training is not where the recipe says"
    if encoded.head.labels != found.record.head.labels:
        return None, "the data that the recipe names has other classes than the adapter"
    return encoded.validation, ""


def _trained(found: OpenedAdapter, scale: float, accelerator: Accelerator) -> nn.Module:
    """The adapter on its base as it was trained, proven by its probes, at another strength."""
    model, _ = load_proven(found.folder, found.recipe, found.base, found.record, accelerator)
    if scale != 1:
        rescale_lora(model, scale)
    return model


def _merged_elsewhere(
    found: OpenedAdapter, into: Into, scale: float, device: torch.device
) -> nn.Module:
    """The merged model of an adapter whose base was quantized."""
    base, recipe = found.base, found.recipe
    if into == "original":
        spec = base.spec.with_(quantization="none", double_quant=False)
        base = replace(base, spec=spec)
        recipe = recipe.with_(base=spec)
    return merged_model(
        found.folder, recipe, base, found.record.head, found.dtype, found.dtype, device, scale
    )


def _save(merged: Any, found: OpenedAdapter, folder: Path) -> None:
    """A folder that transformers loads by itself."""
    folder.mkdir(exist_ok=True)
    save_tokenizer(found.base.tokenizer, folder)
    merged.save_pretrained(folder)


def _requantize(folder: Path, found: OpenedAdapter, device: torch.device) -> None:
    """Quantizes a model folder as the base of the training was."""
    spec = found.base.spec
    plain = Path(tempfile.mkdtemp(prefix="unquantized-", dir=folder.parent))
    folder.rename(plain / "model")
    again = Base(
        name_or_path=str(plain / "model"),
        quantization=spec.quantization,
        double_quant=spec.double_quant,
        dtype=spec.dtype,
    )
    loaded = load_weights(open_base(again), found.record.head, found.dtype, device, dropout=None)
    _save(loaded.model, found, folder)
    del loaded
    shutil.rmtree(plain)
    give_back_memory()


def _reopened(folder: Path, found: OpenedAdapter, accelerator: Accelerator) -> nn.Module:
    """The written folder as transformers alone opens it.

    Raises:
        AdapterError: its tokenizer is another one.
    """
    import transformers

    tokenizers: Any = transformers.AutoTokenizer
    tokenizer = tokenizers.from_pretrained(folder)
    put_back_padding(tokenizer, found.base.tokenizer.pad_token)
    if found.record.tokenizer_sha256 not in ("", tokenizer_sha256(tokenizer)):
        raise AdapterError(
            f"the tokenizer of `{found.base.name}` is not read back as it was",
            "its files are of a kind that transformers does not write; keep the adapter",
        )
    configs: Any = transformers.AutoConfig
    auto = model_class(found.record.head, configs.from_pretrained(folder), found.base.name)
    model: nn.Module = auto.from_pretrained(folder, dtype=found.dtype)
    if getattr(model, "is_quantized", False):
        return model.eval()
    return model.to(accelerator.device).eval()
