"""Draws the pictures of a comparison's report, as SVG text.

Rows are numbered in the table's order. A picture shows all rows; a panel is a picture of one row.
The panels of all rows have the same axis limits.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from peftkit.experiments.comparing.comparison import ProbeFit, Row, SeedRun
from peftkit.experiments.comparing.point_names import DOT, Point, beside_one_another, name_points
from peftkit.metrics.metric import Metric
from peftkit.reports.plots import ACCENT, GRID, INK, PAPER, SECOND, SOFT, STYLE, finish, svg
from peftkit.wording import shortened

PANEL_STYLE: Any = {**STYLE, "font.size": 9}
NAME_LENGTH = 26
"""Maximum length of a row's name beside a plot, in characters."""


@dataclass(frozen=True)
class Panel:
    """A picture of one row of the table."""

    number: int
    """Number of the row in the table, from 1."""
    name: str
    picture: str
    """The picture as SVG text."""


@dataclass(frozen=True)
class _Drawn:
    """A row as a point in the picture of scores and costs."""

    name: str
    cost: float
    score: float
    low: float
    """Lower end of the score's interval."""
    high: float


def pareto(
    rows: Sequence[Row],
    cost: Sequence[float | None],
    title: str,
    axis: str,
    metric: Metric,
    logarithmic: bool = False,
) -> str:
    """Draws each row's score and its interval over a cost, and a line through the Pareto front.

    Args:
        cost: the cost of each row. Rows without a score, or with cost 0 or None, are not drawn.
    """  # fmt: skip
    drawn = [
        _Drawn(str(number), x, row.score, *_spread(row))
        for number, (row, x) in enumerate(zip(rows, cost, strict=True), 1)
        if row.score is not None and x is not None and x > 0
    ]
    if not drawn:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.8))
        figure.subplots_adjust(left=0.16, right=0.97, top=0.97, bottom=0.15)
        axes = figure.subplots()
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlim(*_room_of_costs([point.cost for point in drawn], logarithmic))
        axes.set_ylim(*_room([end for point in drawn for end in (point.low, point.high)], 0.06))
        points = [(point.cost, point.score) for point in drawn]
        best = on_front(points, metric)
        front = sorted(point for point, is_best in zip(points, best, strict=True) if is_best)
        axes.plot(*zip(*front, strict=True), color=ACCENT, linewidth=1.2, alpha=0.5,
                  drawstyle="steps-post")  # fmt: skip
        places = beside_one_another(axes, points)
        for point, (x, y), is_best in zip(drawn, places, best, strict=True):
            colour = ACCENT if is_best else SOFT
            axes.plot([x, x], [point.low, point.high], color=colour, linewidth=1, alpha=0.7)
            axes.plot([x], [y], marker="o", markersize=2 * DOT, color=colour,
                      markerfacecolor=ACCENT if is_best else PAPER)  # fmt: skip
        bars = [(x, point.low, point.high) for point, (x, _) in zip(drawn, places, strict=True)]
        name_points(axes, places, bars, [point.name for point in drawn], best)
        finish(axes, title, axis)
        if logarithmic:
            axes.xaxis.set_major_formatter(FuncFormatter(_short))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        return svg(figure)


def on_front(points: Sequence[Point], metric: Metric) -> list[bool]:
    """For each point (cost, score), whether it is on the Pareto front."""
    values = [(cost, -metric.goodness(score)) for cost, score in points]  # smaller is better
    return [
        not any(a <= cost and b <= loss and (a, b) != (cost, loss) for a, b in values)
        for cost, loss in values
    ]


def seeds(rows: Sequence[Row], axis: str) -> str:
    """Draws, for each row, the test score of each seed and the mean with its interval. A band
    behind the rows shows full fine-tuning's interval, a dashed line the probe's score.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row in rows:
            if row.role == "baseline" and row.interval:
                axes.axvspan(*row.interval, color=GRID, alpha=0.6, linewidth=0)
            if row.role == "probe" and row.score is not None:
                axes.axvline(row.score, color=SECOND, linewidth=1, linestyle="--")
        for place, row in enumerate(rows):
            scores = Counter(seed.score for seed in row.seeds if seed.score is not None)
            if row.score is None:
                axes.text(0.01, place, row.verdict or "no score", va="center", color=SECOND,
                          transform=axes.get_yaxis_transform())  # fmt: skip
                continue
            axes.plot(
                _spread(row), [place, place], color=ACCENT, linewidth=2, solid_capstyle="butt"
            )
            for score, times in scores.items():  # stacks equal scores
                heights = [place + 0.16 * (n - (times - 1) / 2) for n in range(times)]
                axes.plot([score] * times, heights, marker="o", markersize=4.5, linestyle="none",
                          color=INK, markerfacecolor="none", markeredgewidth=0.9)  # fmt: skip
            axes.plot([row.score], [place], marker="|", markersize=13, color=ACCENT,
                      markeredgewidth=2.2)  # fmt: skip
        axes.set_yticks(
            range(len(rows)),
            [f"{number}  {shortened(row.name, NAME_LENGTH)}" for number, row in enumerate(rows, 1)],
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(axis)
        return svg(figure)


def rate_panels(rows: Sequence[Row], metric: Metric) -> list[Panel]:
    """Draws a panel for each row that tried rates: validation score over learning rate."""
    tried = [(number, row) for number, row in enumerate(rows, 1) if row.rates]
    rates = [rate for _, row in tried for rate in row.rates]
    values = [rate.value for rate in rates if rate.value is not None]
    if not values:
        return []
    limits = _decades([rate.learning_rate for rate in rates])
    heights = _room(values, 0.12)
    return [
        Panel(number, row.name, _rate_panel(row, limits, heights, metric)) for number, row in tried
    ]


def _rate_panel(row: Row, limits: Point, heights: Point, metric: Metric) -> str:
    with matplotlib.rc_context(PANEL_STYLE):
        axes = _panel()
        worked = sorted((math.log10(rate.learning_rate), rate.value) for rate in row.rates
                        if rate.value is not None)  # fmt: skip
        failed = [math.log10(rate.learning_rate) for rate in row.rates if rate.value is None]
        axes.set_xlim(*limits)
        axes.set_ylim(*heights)
        if worked:
            axes.plot(*zip(*worked, strict=True), color=ACCENT, marker="o", markersize=4)
        worst = heights[0 if metric.higher_is_better else 1]
        axes.plot(failed, [worst] * len(failed), marker="x", markersize=8, markeredgewidth=2,
                  linestyle="none", color=SECOND, clip_on=False, zorder=5)  # fmt: skip
        chosen = math.log10(row.learning_rate) if row.learning_rate else math.inf
        for x, y in [point for point in worked if math.isclose(point[0], chosen, abs_tol=1e-6)]:
            axes.plot([x], [y], marker="o", markersize=9, markerfacecolor="none", color=SECOND,
                      markeredgewidth=1.8, clip_on=False)  # fmt: skip
        powers = range(round(limits[0]), round(limits[1]) + 1)
        powers = powers if len(powers) <= 5 else powers[::2]
        axes.set_xticks(powers, [f"1e{power}" for power in powers])
        return svg(axes.figure)


def learning_panels(rows: Sequence[Row]) -> list[Panel]:
    """Draws a panel for each trained row: the validation score over the steps. It shows a curve for
    each seed, the mean curve, and the mean curve of full fine-tuning.
    """
    trained = [
        (number, row)
        for number, row in enumerate(rows, 1)
        if any(seed.validations for seed in row.seeds)
    ]
    points = [point for _, row in trained for seed in row.seeds for point in _by_step(seed).items()]
    if not points:
        return []
    heights = _room([value for _, value in points], 0.08)
    last = max(step for step, _ in points)
    full = next((mean_curve(row) for _, row in trained if row.role == "baseline"), [])
    return [
        Panel(number, row.name, _learning_panel(row, full, last, heights))
        for number, row in trained
    ]


def _learning_panel(row: Row, full: Sequence[Point], last: float, heights: Point) -> str:
    with matplotlib.rc_context(PANEL_STYLE):
        axes = _panel()
        if full:
            axes.plot(*zip(*full, strict=True), color=SOFT, linewidth=1.2, linestyle=":")
        for seed in row.seeds:
            curve = sorted(_by_step(seed).items())
            axes.plot(*zip(*curve, strict=True) if curve else ((), ()), color=ACCENT, alpha=0.35,
                      linewidth=0.9)  # fmt: skip
        mean = mean_curve(row)
        axes.plot(*zip(*mean, strict=True) if mean else ((), ()), color=ACCENT, linewidth=2,
                  marker="o" if len(mean) == 1 else "")  # fmt: skip
        axes.set_xlim(0, last * 1.03)
        axes.set_ylim(*heights)
        axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
        axes.xaxis.set_major_formatter(FuncFormatter(_short))
        return svg(axes.figure)


def mean_curve(row: Row) -> list[Point]:
    """Points (step, mean validation score over the seeds), for steps at which the runs of all seeds
    were validated.
    """
    curves = [curve for curve in map(_by_step, row.seeds) if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [(step, sum(curve[step] for curve in curves) / len(curves)) for step in steps]


def _by_step(seed: SeedRun | ProbeFit) -> dict[float, float]:
    return {point.step: point.value for point in seed.validations if point.value is not None}


def _spread(row: Row) -> Point:
    score = row.score or 0.0
    return row.interval or (score, score)


def _short(x: float, _: int = 0) -> str:
    """Formats a number as `338k` or `22M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


def _room(values: Iterable[float], share: float) -> Point:
    """(low, high) limits of an axis: the values' range, with `share` of it added at each end."""
    low, high = min(values := list(values)), max(values)
    free = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - free, high + free


def _room_of_costs(costs: Sequence[float], logarithmic: bool) -> Point:
    """(low, high) limits of the cost axis; they are wide, so that nearly equal costs are close."""
    if not logarithmic:
        low, high = _room(costs, 0.1)
        return min(low, 0.9 * min(costs)), max(high, 1.1 * max(costs))
    powers = [math.log10(cost) for cost in costs]
    free = max(0.1 * (max(powers) - min(powers)), 0.5)
    return 10 ** (min(powers) - free), 10 ** (max(powers) + free)


def _decades(rates: Sequence[float]) -> Point:
    """Exponents (low, high) of two powers of ten, between which all rates lie."""
    low, high = math.floor(math.log10(min(rates))), math.ceil(math.log10(max(rates)))
    return (low, high) if high > low else (low - 1, high + 1)


def _panel() -> Any:
    figure = Figure(figsize=(2.6, 1.8))
    figure.subplots_adjust(left=0.2, right=0.95, top=0.95, bottom=0.17)
    axes = figure.subplots()
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.yaxis.set_major_locator(MaxNLocator(4))
    return axes
