"""Blocks that share their weights, into which no adapter can be folded: a weight that several
modules use has room for one update, and each of them adds its own, or only one adds any.

PEFT's `layer_replication` makes such blocks; some architectures have them (Zamba's shared blocks,
an encoder and a decoder that are tied).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from peftkit.adapters.adapted import PART
from peftkit.bases.loading import empty_model
from peftkit.bases.opening import OpenedBase
from peftkit.data.encoded import Head
from peftkit.errors import quoted

PREFIX = "base_model.model."


def why_shared(base: OpenedBase, head: Head, names: Iterable[str]) -> str:
    """Why what an adapter adds cannot be folded into the base's weights, where modules share the
    ones that it adapts; empty if they do not. No weights are loaded.

    Args:
        names: of the adapter's tensors.
    """
    adapted = {name.removeprefix(PREFIX)[: found.start()] for name, found in _parts(names)}
    if not adapted:
        return ""
    model: Any = empty_model(base, head).model
    for modules in _sharing(model):
        if adapted & set(modules):
            return (
                f"{quoted(sorted(modules), 3)} share one weight, and what the adapter adds is not "
                "the same for each, so that it cannot be folded into that; keep the adapter"
            )
    return ""


def _parts(names: Iterable[str]) -> list[tuple[str, Any]]:
    """Names of tensors that PEFT puts beside a module, and where that module's name ends."""
    found = [(name, PART.search(name.removeprefix(PREFIX))) for name in names]
    return [(name, part) for name, part in found if part is not None]


def _sharing(model: Any) -> list[list[str]]:
    """The names of modules that have one weight, where there are several of them. A language
    model's output layer and its embedding are tied in a way that merging knows.
    """
    layers = (model.get_input_embeddings(), model.get_output_embeddings())
    tied = {id(layer.weight) for layer in layers if layer is not None}
    users: dict[int, list[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        module, _, kind = name.rpartition(".")
        if kind == "weight" and id(parameter) not in tied:
            users.setdefault(id(parameter), []).append(module)
    return [modules for modules in users.values() if len(modules) > 1]
