"""The outcome of a run: scores and answers before and after training, time and memory."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import torch

from peftkit.bases.devices import peak_memory_mb, reset_peak
from peftkit.bases.footprint import Footprint
from peftkit.evaluation.probe_rows import ProbeOfRun
from peftkit.reports.run_record import Sample
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score
from peftkit.training.account import TrainResult


@dataclass(frozen=True)
class Outcome:
    """The results of training, with the scores before and after."""

    before: Score
    baselines: dict[str, dict[str, float]]
    after: Score
    samples: tuple[Sample, ...]
    result: TrainResult
    notes: tuple[str, ...]
    """Notes of the self-check: which faster ways of training were refused, and why."""
    trainable_parameters: int
    base_memory: Footprint
    unquantized: list[str]
    """Modules of a quantized base whose weights are not quantized, except embeddings."""
    decision: Decision
    """Thresholds or other numbers that the task chose on the validation split, with the best
    weights."""
    probe: ProbeOfRun | None
    """The frozen probe, whose scores are among the baselines; None if it was not fitted."""

    def metrics(self) -> dict[str, dict[str, float]]:
        """All scores on the test split, by name, for the adapter's record."""
        return {"before": self.before.metrics, **self.baselines, "after": self.after.metrics}


@dataclass
class Clock:
    """Wall-clock seconds and peak memory of each stage."""

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seconds: dict[str, float] = field(default_factory=dict)
    peaks_mb: dict[str, float] = field(default_factory=dict)
    _open: list[str] = field(default_factory=list)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Measures time and memory of the code inside the block. If stages are nested, the time
        counts for the outermost stage, the peak memory for the innermost one.
        """
        self._note()
        self._open.append(name)
        started = time.perf_counter()
        try:
            yield
        finally:
            self._note()
            self._open.pop()
        if not self._open:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    @property
    def peak_mb(self) -> float:
        """Highest peak memory of all stages so far."""
        return max(self.peaks_mb.values())

    def _note(self) -> None:
        """Records the peak memory since the previous call under the innermost stage's name."""
        if self._open:
            name, peak = self._open[-1], peak_memory_mb(self.device)
            self.peaks_mb[name] = max(self.peaks_mb.get(name, 0.0), peak)
        reset_peak(self.device)
