"""Pictures for the report of a comparison, as SVG text.

Rows are those of compare.json, with their place in the table as `number`. A figure is either wide
(one for the page) or a panel (one for each row, on axes that all panels share).
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from peftkit.reports.plots import ACCENT, GRID, INK, PAPER, SECOND, SOFT, STYLE, finish, svg
from peftkit.wording import shortened

Row = dict[str, Any]
Box = tuple[float, float, float, float]
Point = tuple[float, float]
PANEL_STYLE: Any = {**STYLE, "font.size": 9}
NAME_LENGTH = 26
"""Characters of a name that fit beside a plot."""
DOT = 3.5
"""Half a point's width, in printer's points."""


def pareto(
    rows: Sequence[Row],
    cost: Sequence[float | None],
    title: str,
    metric: str,
    higher_is_better: bool,
    logarithmic: bool = False,
) -> str:
    """Score against a cost, with intervals; the front is what no other row beats in both.

    `cost` is one number a row; a row without a score or a positive cost is not drawn.
    """  # fmt: skip
    drawn = [(row, x) for row, x in zip(rows, cost, strict=True)
             if row["score"] is not None and x is not None and x > 0]  # fmt: skip
    if not drawn:
        return ""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.5, 3.8))
        figure.subplots_adjust(left=0.16, right=0.97, top=0.97, bottom=0.15)
        axes = figure.subplots()
        if logarithmic:
            axes.set_xscale("log")
        axes.set_xlim(*_room_of_costs([x for _, x in drawn], logarithmic))
        axes.set_ylim(*_room([value for row, _ in drawn for value in _spread(row)], 0.06))
        best = on_front([(x, row["score"]) for row, x in drawn], higher_is_better)
        front = sorted((x, row["score"]) for (row, x), is_best in zip(drawn, best, strict=True)
                       if is_best)  # fmt: skip
        axes.plot(*zip(*front, strict=True), color=ACCENT, linewidth=1.2, alpha=0.5,
                  drawstyle="steps-post")  # fmt: skip
        places = _beside_one_another(axes, [(x, row["score"]) for row, x in drawn])
        for (row, _), (x, y), is_best in zip(drawn, places, best, strict=True):
            low, high = _spread(row)
            axes.plot(
                [x, x], [low, high], color=ACCENT if is_best else SOFT, linewidth=1, alpha=0.7
            )
            axes.plot([x], [y], marker="o", markersize=2 * DOT, color=ACCENT if is_best else SOFT,
                      markerfacecolor=ACCENT if is_best else PAPER)  # fmt: skip
        bars = [(x, *_spread(row)) for (row, _), (x, _) in zip(drawn, places, strict=True)]
        _name_points(axes, places, bars, [str(row["number"]) for row, _ in drawn], best)
        finish(axes, title, metric)
        if logarithmic:
            axes.xaxis.set_major_formatter(FuncFormatter(_short))
            axes.xaxis.set_minor_locator(NullLocator())
        else:
            axes.xaxis.set_major_locator(MaxNLocator(5))
            axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,g}"))
        return svg(figure)


def on_front(points: Sequence[Point], higher_is_better: bool) -> list[bool]:
    """Of (cost, score): whether no other is as good in both and better in one."""
    sign = 1 if higher_is_better else -1
    values = [(cost, -sign * score) for cost, score in points]  # both to be small
    return [
        not any(a <= cost and b <= loss and (a, b) != (cost, loss) for a, b in values)
        for cost, loss in values
    ]


def seeds(rows: Sequence[Row], metric: str) -> str:
    """Every seed's test score, the mean and its interval; full's as a band, probes as lines."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(6.4, 0.9 + 0.27 * len(rows)), layout="constrained")
        axes = figure.subplots()
        for row in rows:
            if row["role"] == "baseline" and row["interval"]:
                axes.axvspan(*row["interval"], color=GRID, alpha=0.6, linewidth=0)
            if row["role"] == "probe" and row["score"] is not None:
                axes.axvline(row["score"], color=SECOND, linewidth=1, linestyle="--")
        for place, row in enumerate(rows):
            scores = Counter(seed["score"] for seed in row["seeds"] if seed["score"] is not None)
            if row["score"] is None:
                axes.text(0.01, place, row["verdict"] or "no score", va="center", color=SECOND,
                          transform=axes.get_yaxis_transform())  # fmt: skip
                continue
            axes.plot(
                _spread(row), [place, place], color=ACCENT, linewidth=2, solid_capstyle="butt"
            )
            for score, times in scores.items():  # equal scores above one another
                heights = [place + 0.16 * (n - (times - 1) / 2) for n in range(times)]
                axes.plot([score] * times, heights, marker="o", markersize=4.5, linestyle="none",
                          color=INK, markerfacecolor="none", markeredgewidth=0.9)  # fmt: skip
            axes.plot([row["score"]], [place], marker="|", markersize=13, color=ACCENT,
                      markeredgewidth=2.2)  # fmt: skip
        axes.set_yticks(
            range(len(rows)),
            [f"{row['number']}  {shortened(row['name'], NAME_LENGTH)}" for row in rows],
        )
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.tick_params(axis="y", length=0)
        axes.spines["left"].set_visible(False)
        axes.grid(axis="x", color=GRID, linewidth=0.8)
        axes.set_axisbelow(True)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(metric)
        return svg(figure)


def rate_panels(rows: Sequence[Row], higher_is_better: bool) -> list[tuple[Row, str]]:
    """Of each row that tried rates: the validation value by learning rate, on shared axes."""
    tried = [row for row in rows if row["rates"]]
    values = [rate["value"] for row in tried for rate in row["rates"] if rate["value"] is not None]
    if not values:
        return []
    limits = _decades([rate["learning_rate"] for row in tried for rate in row["rates"]])
    heights = _room(values, 0.12)
    return [(row, _rate_panel(row, limits, heights, higher_is_better)) for row in tried]


def _rate_panel(row: Row, limits: Point, heights: Point, higher_is_better: bool) -> str:
    with matplotlib.rc_context(PANEL_STYLE):
        axes = _panel()
        worked = sorted((math.log10(rate["learning_rate"]), rate["value"]) for rate in row["rates"]
                        if rate["value"] is not None)  # fmt: skip
        failed = [math.log10(rate["learning_rate"]) for rate in row["rates"]
                  if rate["value"] is None]  # fmt: skip
        axes.set_xlim(*limits)
        axes.set_ylim(*heights)
        if worked:
            axes.plot(*zip(*worked, strict=True), color=ACCENT, marker="o", markersize=4)
        worst = heights[0 if higher_is_better else 1]
        axes.plot(failed, [worst] * len(failed), marker="x", markersize=8, markeredgewidth=2,
                  linestyle="none", color=SECOND, clip_on=False, zorder=5)  # fmt: skip
        chosen = math.log10(row["learning_rate"]) if row["learning_rate"] else math.inf
        for x, y in [point for point in worked if math.isclose(point[0], chosen, abs_tol=1e-6)]:
            axes.plot([x], [y], marker="o", markersize=9, markerfacecolor="none", color=SECOND,
                      markeredgewidth=1.8, clip_on=False)  # fmt: skip
        powers = range(round(limits[0]), round(limits[1]) + 1)
        powers = powers if len(powers) <= 5 else powers[::2]
        axes.set_xticks(powers, [f"1e{power}" for power in powers])
        return svg(axes.figure)


def learning_panels(rows: Sequence[Row]) -> list[tuple[Row, str]]:
    """Of each row that was trained: the validation value by step, each seed and their mean.

    The baseline's mean stands behind all others.
    """
    trained = [row for row in rows if any(seed["validations"] for seed in row["seeds"])]
    points = [point for row in trained for seed in row["seeds"] for point in _by_step(seed).items()]
    if not points:
        return []
    heights = _room([value for _, value in points], 0.08)
    last = max(step for step, _ in points)
    full = next((mean_curve(row) for row in trained if row["role"] == "baseline"), [])
    return [(row, _learning_panel(row, full, last, heights)) for row in trained]


def _learning_panel(row: Row, full: Sequence[Point], last: float, heights: Point) -> str:
    with matplotlib.rc_context(PANEL_STYLE):
        axes = _panel()
        if full:
            axes.plot(*zip(*full, strict=True), color=SOFT, linewidth=1.2, linestyle=":")
        for seed in row["seeds"]:
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
    """(step, mean over the seeds) at the steps that every seed reached."""
    curves = [curve for curve in map(_by_step, row["seeds"]) if curve]
    steps = sorted(set.intersection(*map(set, curves))) if curves else []
    return [(step, sum(curve[step] for curve in curves) / len(curves)) for step in steps]


def _by_step(seed: Row) -> dict[float, float]:
    return {record["step"]: record["value"] for record in seed["validations"]
            if record["value"] is not None}  # fmt: skip


def _spread(row: Row) -> Point:
    low, high = row["interval"] or (row["score"], row["score"])
    return low, high


def _short(x: float, _: int = 0) -> str:
    """`338k`, `22M`."""
    for size, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if x >= size:
            return f"{x / size:g}{letter}"
    return f"{x:g}"


def _room(values: Iterable[float], share: float) -> Point:
    """Limits of an axis that leave a share of it free on both sides."""
    low, high = min(values := list(values)), max(values)
    free = (high - low) * share or abs(high) * 0.1 or 1.0
    return low - free, high + free


def _room_of_costs(costs: Sequence[float], logarithmic: bool) -> Point:
    """Limits so wide that costs which are nearly equal stand close to each other."""
    if not logarithmic:
        low, high = _room(costs, 0.1)
        return min(low, 0.9 * min(costs)), max(high, 1.1 * max(costs))
    powers = [math.log10(cost) for cost in costs]
    free = max(0.1 * (max(powers) - min(powers)), 0.5)
    return 10 ** (min(powers) - free), 10 ** (max(powers) + free)


def _decades(rates: Sequence[float]) -> Point:
    """Whole powers of ten around the rates."""
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


def _beside_one_another(axes: Any, points: Sequence[Point], apart: float = 5.0) -> list[Point]:
    """The same points, moved sideways by a few pixels where they stand above one another."""
    pixels = axes.transData.transform(points)
    order = sorted(range(len(points)), key=lambda n: (pixels[n][0], pixels[n][1]))
    groups: list[list[int]] = []
    for n in order:
        if groups and pixels[n][0] - pixels[groups[-1][0]][0] < 4:
            groups[-1].append(n)
        else:
            groups.append([n])
    for group in groups:
        for place, n in enumerate(group):
            pixels[n][0] += apart * (place - (len(group) - 1) / 2)
    return [(x, y) for x, y in axes.transData.inverted().transform(pixels)]


def _name_points(
    axes: Any,
    points: Sequence[Point],
    bars: Sequence[tuple[float, float, float]],
    names: Sequence[str],
    bold: Sequence[bool],
) -> None:
    """Writes each name near its point, where nothing else stands; a line leads to far ones."""
    scale = axes.figure.dpi / 72
    pixels = [(x / scale, y / scale) for x, y in axes.transData.transform(points)]
    taken = [(x - DOT, y - DOT, x + DOT, y + DOT) for x, y in pixels]
    lines: list[Box] = []
    for x, low, high in bars:
        (left, bottom), (_, top) = axes.transData.transform([(x, low), (x, high)]) / scale
        lines.append((left - 1, bottom, left + 1, top))
    frame = axes.bbox.extents / scale
    for (x, y), point, name, is_bold in zip(pixels, points, names, bold, strict=True):
        half = (3.2 * len(name) + 1, 5.0)
        places = [(x + r * math.cos(turn), y + r * math.sin(turn)) for r in (10, 14, 19, 25, 32, 40)
                  for turn in (math.pi / 8 * n for n in range(16))]  # fmt: skip
        boxes = [(a - half[0], b - half[1], a + half[0], b + half[1]) for a, b in places]
        inside = [box for box in boxes if box[0] > frame[0] and box[1] > frame[1]
                  and box[2] < frame[2] and box[3] < frame[3]]  # fmt: skip
        free = [box for box in inside if not _meets(box, taken)]
        box = next((box for box in free if not _meets(box, lines)), (free or boxes)[0])
        taken.append(box)
        at = ((box[0] + box[2]) / 2, (box[1] + box[3]) / 2)
        line = {"arrowstyle": "-", "color": SOFT, "linewidth": 0.6, "shrinkA": 5, "shrinkB": 2}
        far = math.dist(at, (x, y)) > 15
        axes.annotate(
            name, point, (at[0] - x, at[1] - y), textcoords="offset points", ha="center",
            va="center", fontsize=9.5, fontweight="bold" if is_bold else "normal", zorder=4,
            arrowprops=line if far else None,
        )  # fmt: skip


def _meets(box: Box, others: Iterable[Box]) -> bool:
    return any(
        box[0] < other[2] and other[0] < box[2] and box[1] < other[3] and other[1] < box[3]
        for other in others
    )
