"""Folds an adapter into the weights on which it was trained.

A quantized base is dequantized and not quantized again: rounding would change the merged weights by
as much as training did. The original weights are not used: the adapter was not trained on them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.loading import OTHER_SEED, OpenedAdapter, load_trained_model, open_adapter
from peftkit.adapters.probes import MERGED, compare_probes, merged_tolerance, take_probes, tolerance
from peftkit.adapters.published.detection import names_in
from peftkit.bases.added_tokens import fold_added_tokens, load_added_tokens
from peftkit.bases.architectures import NOT_CALLED
from peftkit.bases.devices import release_memory
from peftkit.bases.loading import empty_model, has_tied_output, load_weights
from peftkit.bases.opened import OpenedBase
from peftkit.bases.quantizing import dequantized
from peftkit.data.head import Head
from peftkit.deploy.merging.shared_weights import why_shared
from peftkit.errors import AdapterError, MethodError, first_line
from peftkit.methods.peft.merging import rescale_lora
from peftkit.recipe import Recipe


def merge(path: str, base: str = "") -> nn.Module:
    """Merges the adapter in a run or adapter folder, in float32; compares it with the probes.

    Args:
        base: path of the base; empty for the path in the recipe.

    Raises:
        MethodError: the adapter cannot be merged; raised before weights are loaded.
        AdapterError: a file was changed, the base is not the base of training, or the merged model
            answers differently from the trained one.
    """
    adapter = open_adapter(path, base)
    check_mergeable(adapter)
    adapter.check_base()
    return merge_opened(adapter)


def merge_opened(adapter: OpenedAdapter) -> nn.Module:
    """Merges an opened adapter; call `check_mergeable` and `check_base` first."""
    recipe, opened, head = adapter.recipe, adapter.base, adapter.record.head
    probes = adapter.record.probes
    if not probes:  # another tool saved the adapter
        device = torch.device("cpu")
        trained = load_trained_model(adapter.folder, recipe, opened, head, device)
        probes = take_probes(trained, vocabulary_of(opened), (), tolerance(opened.spec))
        del trained
    merged = merged_model(adapter.folder, recipe, opened, head, adapter.dtype)
    compare_probes(merged, probes, merged_tolerance(opened.spec), MERGED)
    return merged


def check_mergeable(adapter: OpenedAdapter) -> None:
    """Raises MethodError if the adapter cannot be folded into the base's weights."""
    if reason := why_not_mergeable(adapter):
        raise MethodError(reason)


def why_not_mergeable(adapter: OpenedAdapter) -> str:
    """Why the adapter cannot be folded into the base; empty if it can. Loads no weights."""
    if reason := adapter.recipe.method.refuses_merging(adapter.base.spec):
        return reason
    if adapter.base.spec.trust_remote_code:
        return (
            f"`{adapter.base.name}` needs code from its own folder, and a merged model would be "
            "written without that code; keep the adapter"
        )
    names = names_in(adapter.folder / WEIGHTS)
    return why_shared(adapter.base, adapter.record.head, names) or _why_no_place(adapter, names)


def _why_no_place(adapter: OpenedAdapter, names: Iterable[str]) -> str:
    """Why an update of a LoRA cannot be folded into its layer; empty if every update can."""
    ends = (".lora_B.bias", ".lora_A.weight")
    layers = {n.removeprefix("base_model.model."): n for n in names if n.endswith(ends)}
    model = empty_model(adapter.base, adapter.record.head).model if layers else None
    passed_over = NOT_CALLED.get(adapter.base.config.model_type, ())
    for name in layers:
        layer, _, part = name.partition(".lora_")
        if layer.rsplit(".", 1)[-1] in passed_over and adapter.base.spec.quantization == "none":
            return (
                f"the base computes with the weight of `{layer}` itself, so the "
                "layer's adapter has no effect, and would have one after a merge; keep the adapter"
            )
        try:
            module: Any = model.get_submodule(layer) if model else None
        except AttributeError:  # the base lacks the layer; loading reports that
            continue
        if part == "B.bias" and getattr(module, "bias", None) is None:
            return (
                f"`lora_bias` has trained a bias of `{layer}`, which has no bias in the base; keep "
                "the adapter"
            )
        if getattr(module, "groups", 1) > 1:
            return (
                f"`{layer}` is a convolution with several groups, which PEFT cannot merge into; "
                "keep the adapter"
            )
    return ""


@contextlib.contextmanager
def possible_advice(adapter: OpenedAdapter) -> Iterator[None]:
    """Corrects hints of errors inside the block if they advise merging an adapter that cannot be
    merged.

    The corrected hint is the reason why the adapter cannot be merged.
    """
    try:
        yield
    except AdapterError as error:
        if "merge" in error.hint and (reason := why_not_mergeable(adapter)):
            raise AdapterError(error.message, reason) from error
        raise


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
    """The base with the adapter folded in; dequantized if the base was quantized in training.

    Args:
        dtype: dtype of the base's weights in training.
        result: dtype of the merged weights, which are computed in float32.
        device: device for the merging; the CPU if not given.
    """
    set_seed(OTHER_SEED)
    loaded = load_weights(base, head, dtype, device or torch.device("cpu"), dropout=None)
    release_memory()
    model = dequantized(loaded.model, dtype if result == dtype else torch.float32)
    if result == torch.float32:
        model = model.float()
    model = recipe.method.load(model, folder, loaded.head)
    load_added_tokens(model, folder, base.added_ids)
    if scale != 1:
        rescale_lora(model, scale)
    return folded(model, recipe)


def folded(model: nn.Module, recipe: Recipe) -> nn.Module:
    """Folds a model's adapter into its weights and returns the model.

    Raises:
        AdapterError: the adapter holds numbers that are not finite.
    """
    try:
        merged = recipe.method.merge(model)
    except ValueError as error:  # PEFT raises it for numbers that are not finite
        raise AdapterError(f"the adapter cannot be merged: {first_line(error)}") from error
    fold_added_tokens(merged)
    config: Any = merged.config
    if config.tie_word_embeddings and not has_tied_output(merged):
        config.tie_word_embeddings = False  # if True, loading would tie weights that differ now
    return merged.eval()


def vocabulary_of(base: OpenedBase) -> int:
    """Number of token ids that both the tokenizer and the model have."""
    return min(len(base.tokenizer), int(base.config.get_text_config().vocab_size))
