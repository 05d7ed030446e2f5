"""The report of a merge, with its certificate: the content of merge_report.json as a value."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from peftkit.parts import records

Into = Literal["trained", "original", "requantized"]
"""Kind of the weights into which an adapter is merged."""


@dataclass(frozen=True)
class Distance:
    """The distance between two models' logits on the same inputs."""

    positions: int
    max_abs_dlogit: float
    relative: float
    """`max_abs_dlogit` divided by the first model's largest logit, or by 1 if that is larger."""
    kl: float
    """Mean KL divergence of the second model's probabilities from the first's, in nats."""
    top1_agreement: float
    """Share of positions at which both models' largest logit is the same one."""


@dataclass(frozen=True)
class BothScores:
    """Scores on the validation split; empty if the data cannot be read."""

    adapter: dict[str, float]
    merged: dict[str, float]


@dataclass(frozen=True, kw_only=True)
class MergeReport:
    """The content of merge_report.json."""

    into: Into
    scale: float
    """Factor on the adapter's updates."""
    dtype: str
    max_abs_dlogit: float
    """Largest difference of a logit; like `relative` and `kl`, the worst over all inputs."""
    relative: float
    kl: float
    top1_agreement: float
    """Lowest agreement over all inputs."""
    tolerance: float
    """Largest allowed `relative` for a merge into the weights of the training."""
    probes: Distance
    validation: Distance | None = field(default=None, metadata=records.IF_SET)
    """Distance on the validation split; None if the data cannot be read."""
    score: BothScores
    validation_absent: str
    """Why the data cannot be read; empty if it can."""
    seconds: float
    peak_memory_mb: float
    adapter: dict[str, str]
    """File of the adapter's weights -> SHA-256."""
    files: dict[str, str]
    """File of the merged model's weights -> SHA-256."""
    versions: dict[str, str]

    def to_json(self) -> Any:
        """The content of merge_report.json."""
        return records.to_json(self)
