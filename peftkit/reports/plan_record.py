"""What a run is expected to take, as `peftkit plan` prints it and run.json keeps it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftkit.methods.method import Layout
from peftkit.parts import records


@dataclass(frozen=True)
class Plan:
    """What a run is expected to take; megabytes are 2^20 bytes."""

    trainable_parameters: int
    total_parameters: int
    layout: Layout
    num_steps: int
    tokens_per_epoch: int
    worst_batch: tuple[int, int]
    """Examples and tokens."""
    parts_mb: dict[str, float]
    """What memory is for, in training."""
    peaks_mb: dict[str, float]
    """Most memory while loading, evaluating, training and merging."""
    seconds: dict[str, float]
    """Of evaluation and training; empty if time was not measured."""
    full_fine_tuning: dict[str, float]
    """`peak_mb` and `training_seconds` of the same recipe with it; empty if not asked for."""
    notes: tuple[str, ...]

    @property
    def peak_mb(self) -> float:
        """Most memory of the whole run, merging aside."""
        return peak_of(self.peaks_mb)

    def to_json(self) -> Any:
        """For run.json and `--json`."""
        return {**records.to_json(self), "peak_mb": self.peak_mb}


@dataclass(frozen=True)
class Unplanned:
    """Why a run has no plan."""

    failed: str


def peak_of(peaks_mb: dict[str, float]) -> float:
    """Most memory of a run; merging is another one."""
    return max(mb for stage, mb in peaks_mb.items() if stage != "merging")
