"""The report of a merge as a value: the content of merge_report.json."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.parts import records

Into = Literal["trained", "original", "requantized"]
"""Weights of the base to merge into: `trained`, as in training but dequantized; `original`, from
before quantization; `requantized`, as in training and quantized again after the merge."""


@dataclass(frozen=True)
class Distance:
    """The distance between two models' logits on the same inputs."""

    positions: int
    max_abs_dlogit: float
    relative: float
    """`max_abs_dlogit` / max(1, the first model's largest absolute logit)."""
    kl: float
    """Mean KL divergence of the second model's probabilities from the first model's, in nats."""
    top1_agreement: float
    """Share of positions where both models give the largest logit to the same class or token."""


@dataclass(frozen=True)
class BothScores:
    """Validation scores of adapter and merged model; empty if the data cannot be read."""

    adapter: dict[str, float]
    merged: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The content of merge_report.json."""

    into: Into
    scale: float
    """Factor by which the adapter's updates of the weights are multiplied."""
    dtype: str
    max_abs_dlogit: float
    """Largest absolute difference of a logit between the two models. This field and the next three
    hold the worse of the values in `probes` and `validation`."""
    relative: float
    kl: float
    top1_agreement: float
    """Share of positions where both models give the largest logit to the same class or token."""
    tolerance: float
    """Largest `relative` that is allowed if `into` is `trained`."""
    probes: Distance
    validation: Distance | None = field(default=None, metadata=records.IF_SET)
    """Distance on the validation split; None if the data cannot be read."""
    score: BothScores
    validation_absent: str
    """Why the validation data cannot be read; empty if it can."""
    seconds: float
    peak_memory_mb: float
    adapter: dict[str, str]
    """Weight file of the adapter -> its SHA-256."""
    files: dict[str, str]
    """Weight file of the merged model -> its SHA-256."""
    versions: dict[str, str]

    def to_json(self) -> Any:
        """The content of merge_report.json."""
        return records.to_json(self)
