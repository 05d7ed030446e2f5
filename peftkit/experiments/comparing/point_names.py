"""Moves the points of a picture apart and writes their names beside them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from peftkit.reports.plots import SOFT

Box = tuple[float, float, float, float]
Point = tuple[float, float]
DOT = 3.5
"""Radius of a drawn dot, in 1/72 inch."""


def beside_one_another(axes: Any, points: Sequence[Point], apart: float = 5.0) -> list[Point]:
    """Moves points with nearly the same x sideways by a few pixels; returns all points."""
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


def name_points(
    axes: Any,
    points: Sequence[Point],
    bars: Sequence[tuple[float, float, float]],
    names: Sequence[str],
    bold: Sequence[bool],
) -> None:
    """Writes each name into free space near its point; a line connects distant names."""
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
