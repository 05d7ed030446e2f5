"""The plan of a run, as `peftkit plan` prints it and run.json records it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftkit.methods.method import Layout
from peftkit.parts import records


@dataclass(frozen=True)
class Plan:
    """The expected memory and time of a run; megabytes are 2^20 bytes."""

    trainable_parameters: int
    total_parameters: int
    layout: Layout
    num_steps: int
    tokens_per_epoch: int
    worst_batch: tuple[int, int]
    """Numbers of examples and tokens."""
    parts_mb: dict[str, float]
    """Parts of the memory in training."""
    peaks_mb: dict[str, float]
    """Peak memory while loading, evaluating, training and merging."""
    seconds: dict[str, float]
    """Seconds of evaluation and training; empty if time was not measured."""
    full_fine_tuning: dict[str, float]
    """`peak_mb` and `training_seconds` of the same recipe with it; empty if not measured."""
    notes: tuple[str, ...]

    @property
    def peak_mb(self) -> float:
        """Peak memory of the run, without merging."""
        return peak_of(self.peaks_mb)

    def to_json(self) -> Any:
        """The plan in run.json and for `--json`."""
        return {**records.to_json(self), "peak_mb": self.peak_mb}


@dataclass(frozen=True)
class Unplanned:
    """Why a run has no plan."""

    failed: str


def peak_of(peaks_mb: dict[str, float]) -> float:
    """Peak memory of a run; merging is not part of it."""
    return max(mb for stage, mb in peaks_mb.items() if stage != "merging")
