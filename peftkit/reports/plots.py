"""Draws the pictures of receipts and rewinds as SVG text; defines the style of all pictures."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from peftkit.metrics.metric import Metric
from peftkit.reports.rewind_report import RewindReport
from peftkit.training.account import StepRecord, ValidationRecord

INK, SOFT, ACCENT, SECOND, GRID = "#1d2733", "#5b6877", "#0f766e", "#c2410c", "#e3e8ee"
PAPER = "#fefefe"
VARIABLES = {
    INK: "--ink", SOFT: "--soft", ACCENT: "--accent", SECOND: "--warm", GRID: "--line",
    PAPER: "--paper",
}  # fmt: skip
"""Colour -> variable of theme.css that replaces the colour in a page; dark mode changes it."""
ON_CELL = "#111827"
"""Colour of text on light cells of a confusion matrix; dark mode changes neither text nor cells."""
TITLE: Any = {"fontsize": 10, "loc": "left"}
STYLE: Any = {
    "svg.fonttype": "none",  # text stays text, not outlines
    "svg.hashsalt": "peftkit",
    "text.parse_math": False,  # a label may hold dollar signs
    "font.family": "sans-serif",
    "font.size": 10,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": GRID,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def loss_curve(history: Sequence[StepRecord], validations: Sequence[ValidationRecord]) -> str:
    """Draws the training loss by step, raw and smoothed, and the validation loss."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.subplots()
        steps = [record.step for record in history]
        losses = [record.loss for record in history]
        axes.plot(steps, losses, color=ACCENT, alpha=0.25, linewidth=1)
        axes.plot(steps, _smoothed(losses), color=ACCENT, linewidth=2, label="training")
        axes.plot(
            [record.step for record in validations],
            [record.metrics["loss"] for record in validations],
            color=SECOND, marker="o", markersize=5, linewidth=1.5, label="validation",
        )  # fmt: skip
        finish(axes, "optimizer step", "loss")
        return svg(figure)


def metric_curve(
    validations: Sequence[ValidationRecord], metric: str, best_step: int, before: float | None
) -> str:
    """Draws the validation score by step, the best step, and the test score before training."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.subplots()
        points = [(record.step, record.metrics[metric]) for record in validations]
        if before is not None:
            axes.axhline(before, color=INK, linewidth=1, linestyle=":", label="before (test)")
        axes.plot(*zip(*points, strict=True), color=ACCENT, marker="o", markersize=5, linewidth=2,
                  label="validation")  # fmt: skip
        best = next(value for step, value in points if step == best_step)
        axes.plot([best_step], [best], color=SECOND, marker="o", markersize=9, linestyle="none",
                  label="best, kept")  # fmt: skip
        axes.set_xlim(left=0)
        finish(axes, "optimizer step", metric.replace("_", " "))
        return svg(figure)


def rewind_curve(report: RewindReport) -> str:
    """Draws the validation score by scale and, if it was measured, retention by scale. Marks the
    chosen scale.
    """
    points, kept = report.scales, report.retention_metric
    target = {point.scale: point.validation for point in points}
    retained = {point.scale: point.retention for point in points if point.retention is not None}
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 5.2 if kept else 3.2), layout="constrained")
        panels = figure.subplots(2 if kept else 1, 1, sharex=True, squeeze=False)[:, 0]
        _draw_scales(panels[0], report.metric, target, report.chosen, ACCENT)
        panels[0].set_title(_direction("target, validation", report.metric), **TITLE)
        if kept:
            _draw_scales(panels[1], kept, retained, report.chosen, SECOND, report.base.retention)
            panels[1].set_title(_direction("retention", kept), **TITLE)
        panels[-1].set_xlabel("scale")
        return svg(figure, in_page=False)  # for a file of its own


def _direction(title: str, metric: Metric) -> str:
    return f"{title}: {metric.direction} is better"


def _draw_scales(
    axes: Any,
    metric: Metric,
    values: Mapping[float, float],
    chosen: float,
    colour: str,
    base: float | None = None,
) -> None:
    """Draws a metric by scale, and marks the chosen scale and the value at scale 1.

    Args:
        values: scale -> value of the metric.
        base: value of the metric for the base without the adapter, if it was measured.
    """
    axes.plot(*zip(*values.items(), strict=True), color=colour, marker="o", markersize=5,
              linewidth=2)  # fmt: skip
    axes.plot(
        [chosen], [values[chosen]], color=colour, marker="o", markersize=11,
        markerfacecolor="none", linestyle="none", label=f"chosen, {chosen:g}",
    )  # fmt: skip
    axes.axhline(values[1.0], color=INK, linewidth=1, linestyle=":", label="as trained")
    if base is not None:
        axes.axhline(base, color=INK, linewidth=1, linestyle="--", label="base")
    finish(axes, "", metric.title)


def finish(axes: Any, x: str, y: str) -> None:
    """Adds axis titles, a grid, and a legend if anything is labelled."""
    axes.set_xlabel(x)
    axes.set_ylabel(y)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    if axes.get_legend_handles_labels()[0]:
        axes.legend(frameon=False)


def _smoothed(values: Sequence[float], weight: float = 0.9) -> list[float]:
    """The exponential moving average of the values, corrected for its start at zero."""
    smoothed: list[float] = []
    average = total = 0.0
    for value in values:
        average = weight * average + (1 - weight) * value
        total = weight * total + (1 - weight)
        smoothed.append(average / total)
    return smoothed


def svg(figure: Figure, *, in_page: bool = True) -> str:
    """The picture as SVG text; for a page it is transparent and takes the page's colours."""
    buffer = io.StringIO()
    with warnings.catch_warnings():  # browsers have glyphs that matplotlib's font lacks
        warnings.filterwarnings("ignore", "Glyph .* missing")
        figure.savefig(buffer, format="svg", metadata={"Date": None}, transparent=in_page)
    text = buffer.getvalue()
    for colour, variable in VARIABLES.items() if in_page else ():
        text = text.replace(f": {colour}", f": var({variable}, {colour})")
    return text[text.index("<svg") :]
