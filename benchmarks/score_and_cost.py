"""The README's picture: scores of the pooled banking77 table against time and memory.

python benchmarks/score_and_cost.py        # writes docs/pictures/score_and_cost.svg
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from peftkit.experiments.comparing.comparison import Row, read_comparison
from peftkit.reports.plots import ACCENT, GRID, INK, SECOND, SOFT, STYLE, svg

HERE = Path(__file__).parent
TABLE = HERE / "peft_vs_full" / "banking77_pooled"
TARGET = HERE.parent / "docs" / "pictures" / "score_and_cost.svg"
NAMES = {
    "full": "full fine-tuning", "lora": "LoRA", "houlsby": "bottleneck adapters",
    "frozen_probe": "frozen probe (1 min)",
}  # fmt: skip
MARKS = {
    "full": (SOFT, "s"),
    "lora": (ACCENT, "o"),
    "houlsby": (SECOND, "^"),
    "frozen_probe": (INK, "D"),
}
"""Colour and marker of each row."""


def main() -> None:
    """Writes the picture."""
    rows = read_comparison(TABLE).rows
    costs = {
        "seconds per epoch": lambda row: row.seconds_per_epoch,
        "peak memory of training, MB": lambda row: row.memory("training"),
    }
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(8.6, 3.2))
        figure.subplots_adjust(left=0.09, right=0.985, top=0.87, bottom=0.16, wspace=0.08)
        panels = figure.subplots(1, 2, sharey=True)
        for axes, (title, cost) in zip(panels, costs.items(), strict=True):
            _draw(axes, [(row, cost(row)) for row in rows if row.score is not None])
            axes.set_xlabel(title)
        panels[0].set_ylabel("accuracy, official test split")
        figure.legend(handles=_legend(), loc="upper center", ncols=len(NAMES), frameon=False)
        TARGET.write_text(svg(figure, in_page=False), encoding="utf-8")


def _draw(axes: Any, points: list[tuple[Row, float | None]]) -> None:
    """Scores with 95 % intervals against a cost from 0; a row without the cost is a line."""
    for row, cost in points:
        low, high = row.interval
        colour, marker = MARKS[row.name]
        if cost is None:
            axes.axhline(row.score, color=colour, linewidth=1.2, linestyle="--")
            continue
        axes.plot([cost, cost], [low, high], color=colour, linewidth=1.4)
        axes.plot([cost], [row.score], marker=marker, color=colour, linestyle="")
    axes.set_xlim(left=0)
    axes.grid(color=GRID, linewidth=0.8)
    axes.set_axisbelow(True)


def _legend() -> list[Line2D]:
    """One entry for each row."""
    return [
        Line2D([], [], color=colour, marker=marker, linestyle="", label=NAMES[name])
        for name, (colour, marker) in MARKS.items()
    ]


if __name__ == "__main__":
    main()
