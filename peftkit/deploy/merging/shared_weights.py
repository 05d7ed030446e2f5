"""Finds modules that share one weight. An adapter cannot be merged into this weight: the weight can
take only one update, but each module has its own update, or none.

Modules share weights under PEFT's `layer_replication`, and in architectures with shared blocks
(Zamba) or with a tied encoder and decoder.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peftkit.adapters.published.detection import PART
from peftkit.bases.loading import empty_model
from peftkit.bases.opened import OpenedBase
from peftkit.data.head import Head
from peftkit.errors import quoted

PREFIX = "base_model.model."


def why_shared(base: OpenedBase, head: Head, names: Iterable[str]) -> str:
    """Why an adapter cannot be merged if it changes a weight that several modules share; empty if
    it changes no shared weight. Loads no weights.

    Args:
        names: names of the adapter's tensors.
    """
    adapted = {name.removeprefix(PREFIX)[: match.start()] for name, match in _parts(names)}
    if not adapted:
        return ""
    model: Any = empty_model(base, head).model
    for modules in _sharing(model):
        if adapted & set(modules):
            return (
                f"{quoted(sorted(modules), 3)} share one weight, but the adapter changes them "
                "differently, so it cannot be merged into that weight; keep the adapter"
            )
    return ""


def _parts(names: Iterable[str]) -> list[tuple[str, Any]]:
    """Returns (name, match) of each tensor of an adapted module; the match of `PART` begins where
    the module's name ends.
    """
    matches = [(name, PART.search(name.removeprefix(PREFIX))) for name in names]
    return [(name, match) for name, match in matches if match is not None]


def _sharing(model: Any) -> list[list[str]]:
    """Names of the modules that share a weight, one group for each shared weight. Leaves out tied
    embeddings and output layers, because merging handles these.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {id(layer.weight) for layer in layers if layer is not None}
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module, _, kind = name.rpartition(".")
        if kind == "weight" and id(parameter) not in tied:
            users.setdefault(id(parameter), []).append(module)
    return [modules for modules in users.values() if len(modules) > 1]
