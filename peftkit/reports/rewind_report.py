"""The report of a rewind: the content of rewind.json as a value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from peftkit.metrics.metric import Metric
from peftkit.parts import records


@dataclass(frozen=True)
class Measured:
    """The adapter's scores at one scale."""

    scale: float
    validation: float
    retention: float | None = None
    """Score on the retention data; None if retention was not measured."""


@dataclass(frozen=True)
class MeasuredBase:
    """The base's score without the adapter."""

    retention: float | None


@dataclass(frozen=True)
class TestScores:
    """Scores on the test split at one scale."""

    __test__ = False  # not a test class for pytest

    metrics: dict[str, float]
    intervals: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class BothTests:
    """Test scores at scale 1 and at the chosen scale."""

    trained: TestScores
    chosen: TestScores


@dataclass(frozen=True)
class RewindReport:
    """The content of rewind.json."""

    name: str
    adapter: dict[str, str]
    """Weight file of the adapter -> its SHA-256."""
    method: str
    metric: Metric
    """Metric of the validation scores."""
    retention_metric: Metric | None
    """Metric of the retention scores; None if retention was not measured."""
    retention_data: dict[str, str | int] | None
    """Settings that decide how retention is measured; None if it was not measured."""
    retention_rows: int
    scales: tuple[Measured, ...]
    """The adapter's scores at each scale, in ascending order; scale 1 is last."""
    base: MeasuredBase
    chosen: float
    """The chosen scale."""
    why: str
    """Why this scale was chosen."""
    written: bool
    """Whether an adapter was written; False if scale 1 was chosen."""
    test: BothTests
    notes: tuple[str, ...]
    device: str
    versions: dict[str, str]
    seconds: float

    def to_json(self) -> Any:
        """The content of rewind.json."""
        kept = self.retention_metric.name if self.retention_metric else ""
        names = {"metric": self.metric.name, "retention_metric": kept}
        return {**records.to_json(self), **names}
