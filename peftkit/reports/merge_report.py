"""The report of a merge, with its certificate: merge_report.json as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.parts import records

Into = Literal["trained", "original", "requantized"]
"""The weights that an adapter is merged into."""


@dataclass(frozen=True)
class Distance:
    """The distance between two models' answers."""

    positions: int
    max_abs_dlogit: float
    relative: float
    """`max_abs_dlogit` over the largest logit of the first model, or over 1 if that is larger."""
    kl: float
    """Mean divergence of the second model's distribution from the first's, in nats."""
    top1_agreement: float
    """Share of positions at which both have the same likeliest answer."""


@dataclass(frozen=True)
class BothScores:
    """Scores on the validation split; empty if its data is not available."""

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
    """The largest over all inputs, as are `relative` and `kl`."""
    relative: float
    kl: float
    top1_agreement: float
    """The lowest over all inputs."""
    tolerance: float
    """Largest allowed `relative` for a merge into the weights that were trained on."""
    probes: Distance
    validation: Distance | None = field(default=None, metadata=records.IF_SET)
    """None if the data is not available."""
    score: BothScores
    validation_absent: str
    """Why the data is not available; empty if it is."""
    seconds: float
    peak_memory_mb: float
    adapter: dict[str, str]
    """File of weights -> SHA-256."""
    files: dict[str, str]
    """File of the merged model -> SHA-256."""
    versions: dict[str, str]

    def to_json(self) -> Any:
        """The content of merge_report.json."""
        return records.to_json(self)
