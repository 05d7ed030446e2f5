"""What a run comes to: scores and answers before and after, and what they took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from peftkit.bases.footprint import Footprint
from peftkit.tasks.task import Score
from peftkit.training.loop import TrainResult


@dataclass(frozen=True)
class Sample:
    """What the model writes for a test example, before and after training."""

    row: int
    prompt: str
    expected: str
    before: str
    after: str


@dataclass(frozen=True)
class Outcome:
    """What training came to."""

    before: Score
    baselines: dict[str, dict[str, float]]
    after: Score
    samples: tuple[Sample, ...]
    result: TrainResult
    notes: tuple[str, ...]
    """Of the self-check: which faster ways were left out, and why."""
    trainable_parameters: int
    base_memory: Footprint
    peak_memory_mb: float

    def metrics(self) -> dict[str, dict[str, float]]:
        """Scores on the test split, for the adapter's record."""
        return {"before": self.before.metrics, **self.baselines, "after": self.after.metrics}


@dataclass
class Clock:
    """Wall-clock seconds of each stage."""

    seconds: dict[str, float] = field(default_factory=dict)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time inside to a stage."""
        started = time.perf_counter()
        yield
        self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started
