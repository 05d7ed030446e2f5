"""The report of a merge: merge_report.json as a value, the certificate in it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.parts import records

Into = Literal["trained", "original", "requantized"]
"""The weights that an adapter is merged into."""


@dataclass(frozen=True)
class Distance:
    """How far a model's answers are from another's."""

    positions: int
    max_abs_dlogit: float
    relative: float
    """`max_abs_dlogit` over the largest logit of the first model, or over 1 if that is larger."""
    kl: float
    """Mean divergence of the second model's distribution from the first's, in nats."""
    top1_agreement: float
    """Share of positions where both hold the same answer for the likeliest."""


@dataclass(frozen=True)
class BothScores:
    """Scores on the validation split; empty where its data is not at hand."""

    adapter: dict[str, float]
    merged: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The content of merge_report.json."""

    into: Into
    scale: float
    """Strength of the adapter."""
    dtype: str
    max_abs_dlogit: float
    """The largest of all inputs, as are `relative` and `kl`."""
    relative: float
    kl: float
    top1_agreement: float
    """The least of all inputs."""
    tolerance: float
    """Largest `relative` of the weights that were trained on."""
    probes: Distance
    validation: Distance | None = field(default=None, metadata=records.IF_SET)
    """None where the data is not at hand."""
    score: BothScores
    validation_absent: str
    """Why the data is not at hand; empty where it is."""
    seconds: float
    peak_memory_mb: float
    adapter: dict[str, str]
    """File of weights -> SHA-256."""
    files: dict[str, str]
    """File of the merged model -> SHA-256."""
    versions: dict[str, str]

    def to_json(self) -> Any:
        """As merge_report.json has it."""
        return records.to_json(self)
