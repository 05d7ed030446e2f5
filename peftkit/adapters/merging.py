"""Folds an adapter into weights, and proves that the model that comes out is the one trained.

A quantized base is dequantized first: into quantized weights, the rounding would be as large as
what was learned, and into the original ones the adapter does not fit. Both are there for those who
want them, and the certificate says what they cost.
"""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.certificate import Questions, ask, compare, worst
from peftkit.adapters.loading import (
    OTHER_SEED,
    OpenedAdapter,
    load_trained_model,
    open_adapter,
)
from peftkit.adapters.merged_card import write_merged_card
from peftkit.adapters.placing import placed
from peftkit.adapters.probes import compare_probes, merged_tolerance, synthetic_inputs, tolerance
from peftkit.adapters.record import tokenizer_sha256, versions
from peftkit.bases.added_tokens import fold_added_tokens, load_added_tokens
from peftkit.bases.base import Base
from peftkit.bases.loading import dequantized, load_weights
from peftkit.bases.opening import OpenedBase, open_base
from peftkit.data.encoded import Examples, Head
from peftkit.data.splits import load_splits
from peftkit.errors import AdapterError, MethodError, PeftkitError, first_line
from peftkit.output import check_output, write_json
from peftkit.packaged import sha256_of
from peftkit.recipe import Recipe
from peftkit.training.devices import give_back_memory, open_accelerator, peak_memory_mb

Into = Literal["trained", "original", "requantized"]
REPORT = "merge_report.json"
OPTION = "--output"


def merge(path: str, base: str = "") -> nn.Module:
    """The merged model of a run folder or adapter folder, in float32, compared with its probes.

    Args:
        base: where the base is, if not where the recipe says.

    Raises:
        MethodError: what the method trains cannot be merged; told before weights are loaded.
        AdapterError: a file was changed, the base is another one, or the merged model answers
            differently from the trained one.
    """
    found = _open(path, base)
    recipe, opened, head = found.recipe, found.base, found.record.head
    merged = merged_model(found.folder, recipe, opened, head, found.dtype)
    compare_probes(merged, found.record.probes, merged_tolerance(opened.spec))
    return merged


def merge_to(
    path: str, output: str, into: Into = "trained", scale: float = 1.0, base: str = ""
) -> dict[str, Any]:
    """Writes the merged model as a folder that transformers loads, with its certificate.

    The folder is written under another name, opened again by transformers alone, compared with the
    adapter on its base, and only then gets its name.

    Args:
        path: a run folder, an adapter folder, or a Hub id.
        output: a folder that does not exist yet, or is empty.
        into: the weights that were trained on, dequantized if they were quantized; the original
            ones, as they were before they were quantized; or the trained ones, quantized again.
        scale: strength of the adapter: W + scale * (what was learned).
        base: where the base is, if not where the recipe says.

    Returns:
        The content of merge_report.json.

    Raises:
        MethodError: what was trained cannot be merged, or not so.
        AdapterError: as `merge`; nothing is left behind.
        OutputError: the folder holds something, or cannot be written.
    """
    check_output(output, OPTION)
    begun = time.monotonic()
    found = _open(path, base)
    _check_into(found, into)
    questions = _questions(found)
    accelerator = open_accelerator(found.base.spec)
    with placed(Path(output).expanduser()) as folder:
        folder.mkdir()
        trained: nn.Module | None = _trained(found, scale, accelerator)
        assert trained is not None
        first = ask(trained, questions, accelerator)
        if found.base.spec.quantization == "none":
            merged = _folded(trained, found.recipe)
            del trained  # it is the merged one now
        else:
            trained = None
            give_back_memory()
            merged = _merged_elsewhere(found, into, scale, accelerator.device)
        _write(merged, found, folder, into)
        del merged
        give_back_memory()
        second = ask(_reopened(folder, found, accelerator), questions, accelerator)
        distances = compare(first, second)
        report = {
            "into": into,
            "scale": scale,
            "dtype": str(found.dtype).removeprefix("torch."),
            **worst(distances.values()),
            "tolerance": merged_tolerance(found.base.spec),
            **{name: asdict(value) for name, value in distances.items()},
            "score": {"adapter": first.scores, "merged": second.scores},
            "validation_absent": questions.reason,
            "seconds": time.monotonic() - begun,
            "peak_memory_mb": peak_memory_mb(accelerator.device),
            "adapter": found.record.weights,
            "files": {file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
            "versions": versions(),
        }
        _judge(report)
        write_json(folder / REPORT, report)
        write_merged_card(folder, Path(output).name, found.record, report)
    return report


def merged_model(
    folder: Path,
    recipe: Recipe,
    base: OpenedBase,
    head: Head,
    dtype: torch.dtype,
    result: torch.dtype = torch.float32,
    device: torch.device | None = None,
    scale: float = 1.0,
) -> nn.Module:
    """The base's weights as they were trained on, but not quantized, with the adapter folded in.

    Args:
        dtype: of the base in training, to which its weights were rounded.
        result: of the merged weights; each is computed in float32.
        device: where it is done; on the CPU if not given.
    """
    set_seed(OTHER_SEED)
    loaded = load_weights(base, head, dtype, device or torch.device("cpu"), dropout=None)
    give_back_memory()
    model = dequantized(loaded.model, dtype if result == dtype else torch.float32)
    if result == torch.float32:
        model = model.float()
    model = recipe.method.load(model, folder, loaded.head)
    load_added_tokens(model, folder, base.added_ids)
    if scale != 1:
        recipe.method.rescale(model, scale)
    return _folded(model, recipe)


def _folded(model: nn.Module, recipe: Recipe) -> nn.Module:
    try:
        merged = recipe.method.merge(model)
    except ValueError as error:  # PEFT's, about numbers that are not finite
        raise AdapterError(f"it cannot be merged: {first_line(error)}") from error
    fold_added_tokens(merged)
    return merged.eval()


def _open(path: str, base: str) -> OpenedAdapter:
    found = open_adapter(path, base)
    if reason := found.recipe.method.supports_merging(found.base.spec):
        raise MethodError(reason)
    found.check_base()
    return found


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


def _questions(found: OpenedAdapter) -> Questions:
    record, opened = found.record, found.base
    probes = tuple(probe.input_ids for probe in record.probes)
    if not probes:
        vocabulary = min(len(opened.tokenizer), opened.config.get_text_config().vocab_size)
        probes = synthetic_inputs(opened.config, vocabulary, ())
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
    except PeftkitError as error:
        return None, error.message
    if encoded.head.labels != found.record.head.labels:
        return None, "the data that the recipe names has other classes than the adapter"
    return encoded.validation, ""


def _trained(found: OpenedAdapter, scale: float, accelerator: Accelerator) -> nn.Module:
    """The adapter on its base as it was trained, proven by its probes, at another strength."""
    model = load_trained_model(
        found.folder, found.recipe, found.base, found.record.head, accelerator.device
    )
    with accelerator.autocast():
        compare_probes(model, found.record.probes, tolerance(found.base.spec))
    if scale != 1:
        found.recipe.method.rescale(model, scale)
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


def _write(merged: Any, found: OpenedAdapter, folder: Path, into: Into) -> None:
    """A folder that transformers loads by itself."""
    head, base = found.record.head, found.base
    base.tokenizer.save_pretrained(folder)
    if into == "requantized":
        with tempfile.TemporaryDirectory(prefix="unquantized-", dir=folder) as between:
            merged.save_pretrained(between)
            base.tokenizer.save_pretrained(between)
            spec = Base(
                name_or_path=between,
                quantization=base.spec.quantization,
                double_quant=base.spec.double_quant,
                dtype=base.spec.dtype,
            )
            device = next(merged.parameters()).device
            del merged
            merged = load_weights(open_base(spec), head, found.dtype, device, None).model
    merged.save_pretrained(folder)
    for file in folder.glob("*.safetensors"):
        file.chmod(0o644)  # safetensors leaves files that only their owner can read


def _reopened(folder: Path, found: OpenedAdapter, accelerator: Accelerator) -> nn.Module:
    """The written folder as transformers alone opens it.

    Raises:
        AdapterError: its tokenizer is another one.
    """
    import transformers

    tokenizers: Any = transformers.AutoTokenizer
    if tokenizer_sha256(tokenizers.from_pretrained(folder)) != found.record.tokenizer_sha256 and (
        found.record.tokenizer_sha256
    ):
        raise AdapterError(
            f"the tokenizer of `{found.base.name}` is not read back as it was",
            "its files are of a kind that transformers does not write; keep the adapter",
        )
    auto = getattr(transformers, found.record.head.auto_class)
    model: nn.Module = auto.from_pretrained(folder, dtype=found.dtype)
    if getattr(model, "is_quantized", False):
        return model.eval()
    return model.to(accelerator.device).eval()


def _judge(report: dict[str, Any]) -> None:
    """Raises AdapterError if the merged model is not the trained one, and should be."""
    if math.isnan(report["max_abs_dlogit"]):
        raise AdapterError("the merged model answers NaN", "`peftkit verify` the adapter")
    if report["into"] == "trained" and not report["relative"] <= report["tolerance"]:
        raise AdapterError(
            f"the merged model answers differently from the adapter: logits are off by up to "
            f"{report['max_abs_dlogit']:.2g}, {report['relative']:.1e} of their scale (tolerance "
            f"{report['tolerance']:.0e}), the likeliest answer is the same at "
            f"{report['top1_agreement']:.1%} of the positions; nothing was written",
            "keep the adapter, which is right as it is",
        )
