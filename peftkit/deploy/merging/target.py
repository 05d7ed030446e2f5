"""Defines into which weights and at which scale an adapter is merged, and checks this choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from peftkit.adapters.loading import OpenedAdapter
from peftkit.bases.loading import empty_model
from peftkit.bases.quantizing import count_quantized, quantized_empty
from peftkit.deploy.lora_updates import why_no_plain_lora
from peftkit.deploy.merging.folding import check_mergeable
from peftkit.errors import MethodError

Into = Literal["trained", "original", "requantized"]


@dataclass(frozen=True)
class MergeTarget:
    """The weights into which an adapter is merged, and the scale of the adapter."""

    into: Into
    """The base's weights: `trained` are the weights used in training, dequantized; `original` are
    the weights before quantization; `requantized` are the `trained` weights, quantized again after
    the merge."""
    scale: float
    """Factor on a LoRA's updates, W + scale * s B A. It does not apply to a trained head."""


def check_target(adapter: OpenedAdapter, target: MergeTarget) -> None:
    """Checks that an adapter can be merged into the target, and that its base has not changed.

    Raises:
        MethodError: the adapter cannot be merged into these weights or at this scale.
        AdapterError: the base has changed.
    """
    check_mergeable(adapter)
    check_into(adapter, target.into)
    _check_scale(adapter, target.scale)
    adapter.check_base()


def check_into(adapter: OpenedAdapter, into: Into) -> None:
    """Raises MethodError if the base has no weights of the kind `into`."""
    spec = adapter.base.spec
    if into != "trained" and spec.quantization == "none":
        raise MethodError(
            f"`--into {into}`: the base was not quantized, so training used the original weights",
            "leave `--into` out",
        )
    if into == "original" and adapter.base.prequantized:
        raise MethodError(
            f"`--into original`: the files of `{adapter.base.name}` are quantized already, and "
            "hold no other weights",
            "leave `--into` out to merge into the dequantized weights",
        )
    if into == "requantized":
        shapes = quantized_empty(adapter.base, empty_model(adapter.base, adapter.record.head))
        if not count_quantized(shapes.model, shapes.head).taken:
            raise MethodError(
                f"`--into requantized`: bitsandbytes can quantize no layer of "
                f"`{adapter.base.name}`, so training did not quantize it",
                "leave `--into` out",
            )


def _check_scale(adapter: OpenedAdapter, scale: float) -> None:
    """Raises MethodError if the scale is not 1 and the adapter cannot be scaled."""
    config, head = adapter.peft_config, adapter.record.head
    if scale == 1:
        return
    if reason := why_no_plain_lora(config, adapter.folder, head=head.trained):
        raise MethodError(
            f"`--scale`: {reason}, and only LoRA's updates can be scaled",
            "leave `--scale` out",
        )
