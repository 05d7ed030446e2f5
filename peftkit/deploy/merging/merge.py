"""Writes a merged model as a folder and proves that it answers as the adapter on its base does.

If the adapter is merged into weights that training did not use, the certificate says how much the
answers change.
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
    """Writes the merged model and its certificate into a folder that transformers loads.

    The folder gets its name only after transformers has loaded the model without peftkit, and the
    model's outputs were compared with the outputs of the adapter on its base.

    Args:
        path: a run folder, an adapter folder, or a Hub id.
        output: a folder that does not exist yet, or is empty.
        into: see `MergeTarget`.
        scale: see `MergeTarget`.
        base: path of the base; empty for the path in the recipe.
        trust_remote_code: see `open_adapter`.
        on_progress: called with each step as it begins.
        settings: see `open_adapter`.

    Raises:
        MethodError: the adapter cannot be merged into the wanted weights or at this scale.
        AdapterError: a file was changed, the base is another one, or the merged model answers
            differently from the trained one; the output is deleted.
        OutputError: the folder is not empty, or cannot be written.
    """
    final = output_path(output)
    refuse_taken(final)
    begun = time.monotonic()
    adapter = open_adapter(path, base, trust_remote_code, settings)
    target = MergeTarget(into, scale)
    check_target(adapter, target)
    inputs = _inputs(adapter)
    with atomic_path(final) as folder:
        first, second = _write(adapter, folder, target, inputs, on_progress)
        report = _report(adapter, folder, target, inputs, (first, second), time.monotonic() - begun)
        _judge(report)
        write_json(folder / REPORT, report.to_json())
        meaning = adapter.recipe.task.meaning_of_outputs(adapter.record.head)
        write_merged_card(folder, final.name, adapter.record, report, meaning)
    return report


def _write(
    adapter: OpenedAdapter,
    folder: Path,
    target: MergeTarget,
    inputs: MergeInputs,
    on_progress: Callable[[str], None],
) -> tuple[MergeOutputs, MergeOutputs]:
    """Writes the merged model; returns the outputs of the adapter and of the written model. Keeps
    only one model in memory at a time.
    """
    accelerator = open_accelerator(adapter.base.spec)
    on_progress("running the adapter on its base")
    trained: nn.Module | None = _trained(adapter, target.scale, accelerator)
    assert trained is not None
    first = compute_outputs(trained, inputs, accelerator, on_progress)
    on_progress(f"merging into the {target.into} weights")
    if adapter.base.spec.quantization == "none":
        _save(folded(trained, adapter.recipe), adapter, folder)
        del trained  # `trained` was merged in place
    else:
        trained = None
        release_memory()
        _save(_merged_elsewhere(adapter, target, accelerator.device), adapter, folder)
    release_memory()
    if target.into == "requantized":
        _requantize(folder, adapter, accelerator.device)
    on_progress("running the merged model, opened again")
    second = compute_outputs(
        _reopened(folder, adapter, accelerator), inputs, accelerator, on_progress
    )
    return first, second


def _report(
    adapter: OpenedAdapter,
    folder: Path,
    target: MergeTarget,
    inputs: MergeInputs,
    outputs: tuple[MergeOutputs, MergeOutputs],
    seconds: float,
) -> MergeReport:
    """The certificate of a merged model.

    Args:
        outputs: outputs of the adapter on its base, and of the merged model.
        seconds: wall-clock time of the merge.
    """
    first, second = outputs
    distances = compare(first, second)
    largest = worst(distances.values())
    return MergeReport(
        into=target.into,
        scale=target.scale,
        dtype=str(adapter.dtype).removeprefix("torch."),
        max_abs_dlogit=largest.max_abs_dlogit,
        relative=largest.relative,
        kl=largest.kl,
        top1_agreement=largest.top1_agreement,
        tolerance=merged_tolerance(adapter.base.spec),
        probes=distances["probes"],
        validation=distances.get("validation"),
        score=BothScores(first.scores, second.scores),
        validation_absent=inputs.reason,
        seconds=seconds,
        peak_memory_mb=peak_memory_mb(open_accelerator(adapter.base.spec).device),
        adapter=adapter.record.weights,
        files={file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
        versions=versions(),
    )


def _inputs(adapter: OpenedAdapter) -> MergeInputs:
    """The inputs on which the adapter and the merged model are compared."""
    record, opened = adapter.record, adapter.base
    probes = tuple(probe.input_ids for probe in record.probes)
    if not probes:
        probes = synthetic_inputs(opened.config, vocabulary_of(opened), ())
    validation, reason = _validation(adapter)
    pad = opened.tokenizer.pad_token_id
    return MergeInputs(
        adapter.recipe, record.head, pad, probes, validation, reason, record.decision
    )


def _validation(adapter: OpenedAdapter) -> tuple[Examples | None, str]:
    """The validation split, or None; and the reason why it cannot be read, empty if it can."""
    if not adapter.record.base:
        return None, "another tool saved the adapter, and it names no data"
    task = adapter.recipe.task
    try:
        splits, _ = load_splits(task, adapter.recipe.split_seed)
        encoded = task.encode(splits, adapter.base)
    except PeftkitError:  # its message may hold private paths or rows; the report is public
        return None, "the data of the training is not where the recipe says"
    if encoded.head.labels != adapter.record.head.labels:
        return None, "the data that the recipe names has other classes than the adapter"
    return encoded.validation, ""


def _trained(adapter: OpenedAdapter, scale: float, accelerator: Accelerator) -> nn.Module:
    """Loads the adapter on its base, compares it with its probes, then scales its updates."""
    model, _ = load_proven(
        adapter.folder, adapter.recipe, adapter.base, adapter.record, accelerator
    )
    if scale != 1:
        rescale_lora(model, scale)
    return model


def _merged_elsewhere(
    adapter: OpenedAdapter, target: MergeTarget, device: torch.device
) -> nn.Module:
    """The merged model of an adapter whose base was quantized in training."""
    base, recipe = adapter.base, adapter.recipe
    if target.into == "original":
        spec = base.spec.with_(quantization="none", double_quant=False)
        base = replace(base, spec=spec)
        recipe = recipe.with_(base=spec)
    head, dtype = adapter.record.head, adapter.dtype
    return merged_model(adapter.folder, recipe, base, head, dtype, dtype, device, target.scale)


def _save(merged: Any, adapter: OpenedAdapter, folder: Path) -> None:
    """Writes model and tokenizer as a folder that transformers loads."""
    folder.mkdir(exist_ok=True)
    save_tokenizer(adapter.base.tokenizer, folder)
    merged.save_pretrained(folder)


def _requantize(folder: Path, adapter: OpenedAdapter, device: torch.device) -> None:
    """Quantizes the model in a folder as the base was quantized in training."""
    spec = adapter.base.spec
    plain = Path(tempfile.mkdtemp(prefix="unquantized-", dir=folder.parent))
    folder.rename(plain / "model")
    again = Base(
        name_or_path=str(plain / "model"),
        quantization=spec.quantization,
        double_quant=spec.double_quant,
        dtype=spec.dtype,
    )
    loaded = load_weights(
        open_base(again), adapter.record.head, adapter.dtype, device, dropout=None
    )
    _save(loaded.model, adapter, folder)
    del loaded
    shutil.rmtree(plain)
    release_memory()


def _reopened(folder: Path, adapter: OpenedAdapter, accelerator: Accelerator) -> nn.Module:
    """Opens the written folder with transformers, without peftkit's code.

    Raises:
        AdapterError: the tokenizer differs from the training's.
    """
    import transformers

    tokenizers: Any = transformers.AutoTokenizer
    tokenizer = tokenizers.from_pretrained(folder)
    put_back_padding(tokenizer, adapter.base.tokenizer.pad_token)
    if adapter.record.tokenizer_sha256 not in ("", tokenizer_sha256(tokenizer)):
        raise AdapterError(
            f"the tokenizer of `{adapter.base.name}` changes when it is written and read again",
            "keep the adapter; transformers cannot write this kind of tokenizer",
        )
    configs: Any = transformers.AutoConfig
    auto = model_class(adapter.record.head, configs.from_pretrained(folder), adapter.base.name)
    model: nn.Module = auto.from_pretrained(folder, dtype=adapter.dtype)
    if getattr(model, "is_quantized", False):
        return model.eval()
    return model.to(accelerator.device).eval()


def _judge(report: MergeReport) -> None:
    """Raises AdapterError if logits are NaN, or changed by a merge into the trained weights."""
    if math.isnan(report.max_abs_dlogit):
        raise AdapterError(
            "the merged model answers NaN", "check the adapter with `peftkit verify`"
        )
    if report.into == "trained" and not report.relative <= report.tolerance:
        raise AdapterError(
            f"the merged model answers differently from the adapter: logits differ by up to "
            f"{report.max_abs_dlogit:.2g}, which is {report.relative:.3g} of their scale "
            f"(tolerance {report.tolerance:g}); the likeliest answer is the same at "
            f"{report.top1_agreement:.1%} of the positions; nothing was written",
            "keep the adapter, which is unchanged",
        )
