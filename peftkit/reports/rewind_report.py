"""The report of a rewind: rewind.json as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftkit.metrics.metric import Metric
from peftkit.parts import records


@dataclass(frozen=True)
class Measured:
    """An adapter at one scale."""

    scale: float
    validation: float
    retention: float | None = None
    """None where nothing was given to measure it on."""


@dataclass(frozen=True)
class MeasuredBase:
    """The base without the adapter."""

    retention: float | None


@dataclass(frozen=True)
class TestScores:
    """Scores on the test split."""

    __test__ = False  # no test, for pytest

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class BothTests:
    """Scores at scale 1 and at the chosen scale."""

    trained: TestScores
    chosen: TestScores


@dataclass(frozen=True)
class RewindReport:
    """The content of rewind.json."""

    name: str
    adapter: dict[str, str]
    """File of weights -> SHA-256."""
    method: str
    metric: Metric
    """The target's validation score."""
    retention_metric: Metric | None
    """None where retention was not measured."""
    retention_data: dict[str, str | int] | None
    """Settings of the rows or texts for retention."""
    retention_rows: int
    scales: tuple[Measured, ...]
    """Ascending, scale 1 last."""
    base: MeasuredBase
    chosen: float
    """A scale."""
    why: str
    """Why it was chosen."""
    written: bool
    """Whether an adapter was written: not at scale 1."""
    test: BothTests
    notes: tuple[str, ...]
    device: str
    versions: dict[str, str]
    seconds: float

    def to_json(self) -> Any:
        """As rewind.json has it."""
        kept = self.retention_metric.name if self.retention_metric else ""
        names = {"metric": self.metric.name, "retention_metric": kept}
        return {**records.to_json(self), **names}
