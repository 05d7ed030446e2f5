"""Draws the charts of a score as SVG text."""

from __future__ import annotations

import matplotlib
from matplotlib.figure import Figure

from peftkit.reports.plots import ACCENT, INK, SECOND, STYLE, finish, svg
from peftkit.tasks.score import Chart

COLOURS = (ACCENT, SECOND, INK)
MARKERS = ("o", "s", "^")
MOST_DOTS = 12
"""Lines with more points are drawn without a dot at each."""
LEVEL = 5
"""Largest number of names that are written horizontally."""


def picture(chart: Chart) -> str:
    """Draws a chart; its vertical axis goes from 0 to at least the highest value."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.6, 3.1), layout="constrained")
        axes = figure.subplots()
        dots = len(chart.places) <= MOST_DOTS
        for number, line in enumerate(chart.lines):
            axes.plot(
                chart.places, line.values, linewidth=2, label=line.name, markersize=5,
                color=COLOURS[number % len(COLOURS)],
                marker=MARKERS[number % len(MARKERS)] if dots else "",
            )  # fmt: skip
        if chart.mark is not None:
            axes.axvline(chart.mark, color=INK, linewidth=1, linestyle=":")
        if chart.names:
            level = len(chart.names) <= LEVEL
            axes.set_xticks(
                chart.places, chart.names, rotation=0 if level else 45,
                ha="center" if level else "right", rotation_mode="anchor", fontsize=8,
            )  # fmt: skip
            axes.margins(x=0.12)
        highest = max(max(line.values) for line in chart.lines)
        axes.set_ylim(0, 1.08 * max(highest, 0.01))
        finish(axes, chart.x, "")
        return svg(figure)
