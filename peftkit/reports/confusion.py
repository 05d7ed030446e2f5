"""Draws the confusion matrix, and lists the pairs of labels most often confused."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib
from matplotlib.figure import Figure

from peftkit.reports.plots import ON_CELL, STYLE, svg
from peftkit.wording import shortened

MAX_NAMED = 30
"""Largest number of labels whose names fit beside the matrix."""
LEVEL = 40
"""Maximum total length, in characters, of labels written horizontally beneath the matrix."""
NAME_LENGTH = 24
"""Maximum length of a label in the picture, in characters; longer labels are shortened."""
PAIRS = 20
"""Largest number of pairs that `worst_pairs` lists."""

Counts = Sequence[Sequence[int]]
Pair = tuple[str, str, int, float]


def worst_pairs(
    labels: Sequence[str], counts: Counts, columns: Sequence[str] | None = None
) -> list[Pair]:
    """Lists the pairs of labels most often confused, each as (expected, predicted, number of rows,
    share of the expected label's rows).

    Args:
        columns: labels of the columns: those of the rows and further ones; None if the same.
    """
    columns = columns or labels
    pairs = [
        (labels[i], columns[j], count, count / sum(row))
        for i, row in enumerate(counts)
        for j, count in enumerate(row)
        if count and i != j
    ]
    return sorted(pairs, key=lambda pair: (-pair[2], -pair[3]))[:PAIRS]


def are_named(labels: Sequence[str]) -> bool:
    """Whether the picture has room for the labels' names."""
    return len(labels) <= MAX_NAMED


def widths(labels: Sequence[str]) -> tuple[int, int]:
    """The smallest and largest width of the picture, in pixels."""
    n = len(labels)
    if not are_named(labels):
        return 0, 640
    return (0 if n <= 6 else 200 + 18 * n), 340 + 20 * n


def picture(labels: Sequence[str], counts: Counts, columns: Sequence[str] | None = None) -> str:
    """Draws the matrix as SVG text: expected labels as rows, predicted labels as columns. A cell's
    shade is its share of the expected label's rows.

    Args:
        columns: labels of the columns: those of the rows and further ones; None if the same.
    """
    columns = columns or labels
    n = len(columns)
    size = min(3.0 + 0.42 * n, 12.0) if are_named(columns) else 6.4
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(size, size * 0.85), layout="constrained")
        axes = figure.subplots()
        totals = [max(sum(row), 1) for row in counts]
        shares = [[c / t for c in row] for row, t in zip(counts, totals, strict=True)]
        axes.imshow(shares, cmap="GnBu", vmin=0, vmax=1)
        axes.set_xticks([])
        axes.set_yticks([])
        if are_named(columns):
            _name(axes, labels, columns)
            _count(axes, counts, shares)
        axes.set_xlabel("predicted")
        axes.set_ylabel("expected")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        return svg(figure)


def _name(axes: matplotlib.axes.Axes, labels: Sequence[str], columns: Sequence[str]) -> None:
    """Writes the labels beside the rows and beneath the columns. Labels beneath are slanted unless
    they are few and short.
    """
    beside, beneath = (
        [shortened(label, NAME_LENGTH, end=8) for label in names] for names in (labels, columns)
    )
    level = len(columns) <= 4 and sum(map(len, beneath)) <= LEVEL
    axes.set_xticks(
        range(len(beneath)), beneath, rotation=0 if level else 60,
        ha="center" if level else "right", rotation_mode="anchor",
    )  # fmt: skip
    axes.set_yticks(range(len(beside)), beside)


def _count(axes: matplotlib.axes.Axes, counts: Counts, shares: Sequence[Sequence[float]]) -> None:
    """Writes the number of rows into each cell; omits zeros if there are more than 6 labels."""
    n = len(counts)
    for i, row in enumerate(counts):
        for j, count in enumerate(row):
            colour = "white" if shares[i][j] > 0.6 else ON_CELL
            if count or n <= 6:
                axes.text(j, i, f"{count:,}", ha="center", va="center", color=colour,
                          fontsize=11 if n <= 6 else 7)  # fmt: skip
