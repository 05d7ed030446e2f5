"""Writes a merged model as a folder, and proves that it is the one that was trained.

Into other weights than those that were trained on, for those who want them, the certificate says
what that costs.
"""

from __future__ import annotations

import math
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
from peftkit.adapters.probes import merged_tolerance, synthetic_inputs
from peftkit.adapters.record import tokenizer_sha256, versions
from peftkit.atomic import atomic_path, output_path, refuse_taken, write_json
from peftkit.bases.base import Base
from peftkit.bases.devices import frozen_gc, open_accelerator, peak_memory_mb, release_memory
from peftkit.bases.loading import load_weights, model_class
from peftkit.bases.opening import open_base
from peftkit.bases.padding import put_back_padding, save_tokenizer
from peftkit.data.encoded import Examples
from peftkit.data.packaged import sha256_of
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.card import write_merged_card
from peftkit.deploy.merging.certificate import (
    MergeInputs,
    MergeOutputs,
    compare,
    compute_outputs,
    worst,
)
from peftkit.deploy.merging.folding import folded, merged_model, vocabulary_of
from peftkit.deploy.merging.target import MergeTarget, check_target
from peftkit.errors import AdapterError, PeftkitError
from peftkit.methods.peft.merging import rescale_lora
from peftkit.reports.merge_report import BothScores, Into, MergeReport

REPORT = "merge_report.json"


@frozen_gc()
def merge_to(
    path: str,
    output: str,
    into: Into = "trained",
    scale: float = 1.0,
    base: str = "",
    trust_remote_code: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
    settings: Mapping[str, object] | None = None,
) -> MergeReport:
    """Writes the merged model as a folder that transformers loads, with its certificate.

    The folder is written under another name, opened again by transformers alone, compared with the
    adapter on its base, and only then gets its name.

    Args:
        path: a run folder, an adapter folder, or a Hub id.
        output: a folder that does not exist yet, or is empty.
        into: as in `MergeTarget`.
        scale: as in `MergeTarget`.
        base: where the base is, if not where the recipe says.
        trust_remote_code: as for `open_adapter`.
        on_progress: called with what is being done.
        settings: as for `open_adapter`.

    Raises:
        MethodError: what was trained cannot be merged, or not so.
        AdapterError: as `merge`; nothing is left behind.
        OutputError: the folder holds something, or cannot be written.
    """
    final = output_path(output)
    refuse_taken(final)
    begun = time.monotonic()
    found = open_adapter(path, base, trust_remote_code, settings)
    target = MergeTarget(into, scale)
    check_target(found, target)
    inputs = _inputs(found)
    with atomic_path(final) as folder:
        first, second = _write(found, folder, target, inputs, on_progress)
        report = _report(found, folder, target, inputs, (first, second), time.monotonic() - begun)
        _judge(report)
        write_json(folder / REPORT, report.to_json())
        write_merged_card(folder, final.name, found.record, report)
    return report


def _write(
    found: OpenedAdapter,
    folder: Path,
    target: MergeTarget,
    inputs: MergeInputs,
    on_progress: Callable[[str], None],
) -> tuple[MergeOutputs, MergeOutputs]:
    """Writes the merged model; returns the adapter's outputs and those of what was written. Holds
    one model at a time.
    """
    accelerator = open_accelerator(found.base.spec)
    on_progress("asking the adapter on its base")
    trained: nn.Module | None = _trained(found, target.scale, accelerator)
    assert trained is not None
    first = compute_outputs(trained, inputs, accelerator, on_progress)
    on_progress(f"merging into the {target.into} weights")
    if found.base.spec.quantization == "none":
        _save(folded(trained, found.recipe), found, folder)
        del trained  # it is the merged one now
    else:
        trained = None
        release_memory()
        _save(_merged_elsewhere(found, target, accelerator.device), found, folder)
    release_memory()
    if target.into == "requantized":
        _requantize(folder, found, accelerator.device)
    on_progress("asking the merged model, opened again")
    second = compute_outputs(
        _reopened(folder, found, accelerator), inputs, accelerator, on_progress
    )
    return first, second


def _report(
    found: OpenedAdapter,
    folder: Path,
    target: MergeTarget,
    inputs: MergeInputs,
    outputs: tuple[MergeOutputs, MergeOutputs],
    seconds: float,
) -> MergeReport:
    """The certificate of a merged model.

    Args:
        outputs: of the adapter on its base, and of the merged model.
    """
    first, second = outputs
    distances = compare(first, second)
    largest = worst(distances.values())
    return MergeReport(
        into=target.into,
        scale=target.scale,
        dtype=str(found.dtype).removeprefix("torch."),
        max_abs_dlogit=largest.max_abs_dlogit,
        relative=largest.relative,
        kl=largest.kl,
        top1_agreement=largest.top1_agreement,
        tolerance=merged_tolerance(found.base.spec),
        probes=distances["probes"],
        validation=distances.get("validation"),
        score=BothScores(first.scores, second.scores),
        validation_absent=inputs.reason,
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(open_accelerator(found.base.spec).device),
        adapter=found.record.weights,
        files={file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
        versions=versions(),
    )


def _inputs(found: OpenedAdapter) -> MergeInputs:
    """What the adapter and the merged model are compared on."""
    record, opened = found.record, found.base
    probes = tuple(probe.input_ids for probe in record.probes)
    if not probes:
        probes = synthetic_inputs(opened.config, vocabulary_of(opened), ())
    validation, reason = _validation(found)
    pad = opened.tokenizer.pad_token_id
    return MergeInputs(found.recipe, record.head, pad, probes, validation, reason, record.decision)


def _validation(found: OpenedAdapter) -> tuple[Examples | None, str]:
    """The validation split of the training, or why it cannot be read."""
    if not found.record.base:
        return None, "another tool saved the adapter, and it names no data"
    task = found.recipe.task
    try:
        splits, _ = load_splits(task, found.recipe.split_seed)
        encoded = task.encode(splits, found.base)
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


def _merged_elsewhere(found: OpenedAdapter, target: MergeTarget, device: torch.device) -> nn.Module:
    """The merged model of an adapter whose base was quantized."""
    base, recipe = found.base, found.recipe
    if target.into == "original":
        spec = base.spec.with_(quantization="none", double_quant=False)
        base = replace(base, spec=spec)
        recipe = recipe.with_(base=spec)
    head, dtype = found.record.head, found.dtype
    return merged_model(found.folder, recipe, base, head, dtype, dtype, device, target.scale)


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
    release_memory()


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


def _judge(report: MergeReport) -> None:
    """Raises AdapterError if the merged model is not the trained one, and should be."""
    if math.isnan(report.max_abs_dlogit):
        raise AdapterError("the merged model answers NaN", "`peftkit verify` the adapter")
    if report.into == "trained" and not report.relative <= report.tolerance:
        raise AdapterError(
            f"the merged model answers differently from the adapter: logits are off by up to "
            f"{report.max_abs_dlogit:.2g}, {report.relative:.3g} of their scale (tolerance "
            f"{report.tolerance:g}), the likeliest answer is the same at "
            f"{report.top1_agreement:.1%} of the positions; nothing was written",
            "keep the adapter, which is right as it is",
        )
