"""The report of a rewind, made from its curve and its scores."""

from __future__ import annotations

from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.record import versions
from peftkit.deploy.rewinding.material import Material
from peftkit.reports.rewind_report import BothTests, Measured, MeasuredBase, RewindReport

OTHER_DATA = 1e-2
"""Largest relative difference of a test loss to that of the training, on the same data."""


def make_report(
    adapter: OpenedAdapter,
    material: Material,
    curve: list[Measured],
    of_base: float | None,
    choice: tuple[float, str],
    test: BothTests,
    device: str,
) -> RewindReport:
    """The report, without the seconds.

    Args:
        of_base: the base's own retention, if it was measured.
        choice: the scale, and why it is that one.
    """
    chosen, why = choice
    return RewindReport(
        name=adapter.recipe.name or "run",
        adapter=adapter.record.weights,
        method=adapter.recipe.method.kind(),
        metric=material.metric,
        retention_metric=material.retention_metric,
        retention_data=material.retention_settings,
        retention_rows=len(material.texts) or len(material.rows or ()),
        scales=tuple(curve),
        base=MeasuredBase(of_base),
        chosen=chosen,
        why=why,
        written=chosen != 1,
        test=test,
        notes=tuple(_notes(adapter, material, test.trained.metrics["loss"])),
        device=device,
        versions=versions(),
        seconds=0.0,
    )


def _notes(adapter: OpenedAdapter, material: Material, now: float) -> list[str]:
    """Notes of the report.

    Args:
        now: the test loss at scale 1.
    """
    notes = []
    if material.retention is None:
        notes.append("retention was not measured: `--retain PATH` names rows of another domain")
    before = adapter.record.metrics["after"]["loss"]
    if abs(now - before) > OTHER_DATA * max(before, 0.1):
        notes.append(
            f"at scale 1 the test loss is {now:.4f}, and was {before:.4f} when it was trained: the "
            "data is not the same"
        )
    return notes
