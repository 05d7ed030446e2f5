"""Folds an adapter into the weights that it was trained on.

A quantized base is dequantized first: into quantized weights, the rounding would be as large as
what was learned, and into the original ones the adapter does not fit.
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
    """The merged model of a run folder or adapter folder, in float32, compared with its probes.

    Args:
        base: where the base is, if not where the recipe says.

    Raises:
        MethodError: what the method trains cannot be merged; told before weights are loaded.
        AdapterError: a file was changed, the base is another one, or the merged model answers
            differently from the trained one.
    """
    found = open_adapter(path, base)
    check_mergeable(found)
    found.check_base()
    return merge_opened(found)


def merge_opened(found: OpenedAdapter) -> nn.Module:
    """As `merge`, of an adapter that `check_mergeable` has passed, on the base that was checked."""
    recipe, opened, head = found.recipe, found.base, found.record.head
    probes = found.record.probes
    if not probes:  # another tool has saved it
        device = torch.device("cpu")
        trained = load_trained_model(found.folder, recipe, opened, head, device)
        probes = take_probes(trained, vocabulary_of(opened), (), tolerance(opened.spec))
        del trained
    merged = merged_model(found.folder, recipe, opened, head, found.dtype)
    compare_probes(merged, probes, merged_tolerance(opened.spec), MERGED)
    return merged


def check_mergeable(found: OpenedAdapter) -> None:
    """Raises MethodError if what was trained cannot be folded into the base's weights."""
    if reason := why_not_mergeable(found):
        raise MethodError(reason)


def why_not_mergeable(found: OpenedAdapter) -> str:
    """Why what was trained cannot be folded into the base's weights; empty if it can. No weights
    are loaded.
    """
    if reason := found.recipe.method.refuses_merging(found.base.spec):
        return reason
    if found.base.spec.trust_remote_code:
        return (
            f"`{found.base.name}` needs code that lies beside it, and a merged model would be "
            "written without that; keep the adapter"
        )
    names = names_in(found.folder / WEIGHTS)
    return why_shared(found.base, found.record.head, names) or _why_no_place(found, names)


def _why_no_place(found: OpenedAdapter, names: Iterable[str]) -> str:
    """Why PEFT has no place in the base's layers for what a LoRA has trained; empty if it has."""
    ends = (".lora_B.bias", ".lora_A.weight")
    layers = {n.removeprefix("base_model.model."): n for n in names if n.endswith(ends)}
    model = empty_model(found.base, found.record.head).model if layers else None
    passed_over = NOT_CALLED.get(found.base.config.model_type, ())
    for name in layers:
        layer, _, part = name.partition(".lora_")
        if layer.rsplit(".", 1)[-1] in passed_over and found.base.spec.quantization == "none":
            return (
                f"the base computes with the weight of `{layer}` itself, so that the adapter of it "
                "has no effect, and would have one if it were folded in; keep the adapter"
            )
        try:
            module: Any = model.get_submodule(layer) if model else None
        except AttributeError:  # of another base, which loading tells
            continue
        if part == "B.bias" and getattr(module, "bias", None) is None:
            return (
                f"`lora_bias` has trained a bias of `{layer}`, which has none in the base; keep "
                "the adapter"
            )
        if getattr(module, "groups", 1) > 1:
            return (
                f"`{layer}` is a convolution of several groups, into which PEFT folds nothing; "
                "keep the adapter"
            )
    return ""


@contextlib.contextmanager
def possible_advice(found: OpenedAdapter) -> Iterator[None]:
    """Inside, an error that advises to merge an adapter gives the reason instead where that cannot
    be done.
    """
    try:
        yield
    except AdapterError as error:
        if "merge" in error.hint and (reason := why_not_mergeable(found)):
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
    """The base's weights as they were trained on, but not quantized, with the adapter folded in.

    Args:
        dtype: of the base in training, to which its weights were rounded.
        result: of the merged weights; each is computed in float32.
        device: where it is done; on the CPU if not given.
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
    """What a model with an adapter becomes when that is folded in.

    Raises:
        AdapterError: it holds numbers that are not finite.
    """
    try:
        merged = recipe.method.merge(model)
    except ValueError as error:  # PEFT's, about numbers that are not finite
        raise AdapterError(f"it cannot be merged: {first_line(error)}") from error
    fold_added_tokens(merged)
    config: Any = merged.config
    if config.tie_word_embeddings and not has_tied_output(merged):
        config.tie_word_embeddings = False  # else transformers would tie what was trained apart
    return merged.eval()


def vocabulary_of(base: OpenedBase) -> int:
    """Token ids below it may be given to a model."""
    return min(len(base.tokenizer), int(base.config.get_text_config().vocab_size))
