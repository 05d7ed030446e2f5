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
    """(number of examples, number of tokens) of the largest micro-batch."""
    parts_mb: dict[str, float]
    """Part of the memory, such as weights or gradients -> its size in training."""
    peaks_mb: dict[str, float]
    """Stage (loading, evaluation, training, merging) -> its peak memory."""
    seconds: dict[str, float]
    """`evaluation` and `training` -> seconds; empty if time was not measured."""
    full_fine_tuning: dict[str, float]
    """`peak_mb` and `training_seconds` of full fine-tuning; empty if not measured."""
    notes: tuple[str, ...]

    @property
    def peak_mb(self) -> float:
        """Peak memory of the run; merging is not counted."""
        return peak_of(self.peaks_mb)

    def to_json(self) -> Any:
        """The plan as JSON values, for run.json and `peftkit plan --json`."""
        return {**records.to_json(self), "peak_mb": self.peak_mb}


@dataclass(frozen=True)
class Unplanned:
    """Takes the place of a plan that could not be made; `failed` says why."""

    failed: str


def peak_of(peaks_mb: dict[str, float]) -> float:
    """Highest peak memory of all stages except merging."""
    return max(mb for stage, mb in peaks_mb.items() if stage != "merging")
