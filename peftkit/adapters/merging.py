"""Folds an adapter into the weights that it was trained on.

A quantized base is dequantized first: into quantized weights, the rounding would be as large as
what was learned, and into the original ones the adapter does not fit.
"""

from __future__ import annotations

from pathlib import Path

import torch
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.loading import OTHER_SEED, check_base, read_adapter
from peftkit.adapters.probes import compare_probes, tolerance
from peftkit.bases.added_tokens import fold_added_tokens, load_added_tokens
from peftkit.bases.loading import dequantized, load_weights
from peftkit.bases.opening import OpenedBase, open_base
from peftkit.data.encoded import Head
from peftkit.errors import MethodError
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
    folder, record, recipe = read_adapter(path, base)
    opened = open_base(recipe.base, recipe.method.position_offset)
    if reason := recipe.method.supports_merging(opened.spec):
        raise MethodError(reason)
    check_base(opened, record)
    dtype = getattr(torch, record.base["dtype"])
    merged = merged_model(folder, recipe, opened, record.head, dtype)
    compare_probes(merged, record.probes, tolerance(opened.spec))
    return merged


def merged_model(
    folder: Path, recipe: Recipe, base: OpenedBase, head: Head, dtype: torch.dtype
) -> nn.Module:
    """The base's weights as they were trained on, but not quantized, with the adapter folded in.

    Args:
        dtype: of the base in training, to which its weights were rounded; the result is float32.
    """
    set_seed(OTHER_SEED)
    loaded = load_weights(base, head, dtype, torch.device("cpu"), dropout=None)
    model = dequantized(loaded.model)
    model = recipe.method.load(model, folder, loaded.head)
    load_added_tokens(model, folder, base.added_ids)
    merged = recipe.method.merge(model)
    fold_added_tokens(merged)
    return merged.eval()
