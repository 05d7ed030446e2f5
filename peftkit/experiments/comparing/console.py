"""Prints a comparison's results, or its expected time and memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from peftkit.experiments.comparing import trained_out
from peftkit.experiments.comparing.comparison import FILE, Comparison
from peftkit.experiments.comparing.expecting import HOW, Expected
from peftkit.experiments.comparing.summary import summary
from peftkit.reports.console import plain_table
from peftkit.reports.terminal import print_note
from peftkit.wording import duration

LEFT = (0, 2, 4)
"""Indices of the columns that are aligned to the left: name, interval and verdict."""


def print_expected(console: Console, expected: Sequence[Expected]) -> None:
    """Prints the expected time and memory of each unfinished method, and the total time."""
    if not expected:
        console.print("  all trials and runs are done")
        return
    table = plain_table("", "trials", "each", "runs", "each", "all", "memory")
    for method in expected:
        times = method.trial_seconds, method.run_seconds, method.seconds
        trial, run, both = map(duration, times)
        memory = f"{method.peak_memory_mb:,.0f} MB"
        counts = str(method.trials_left), str(method.runs_left)
        table.add_row(method.name, counts[0], trial, counts[1], run, both, memory)
    console.print(table)
    total = sum(method.seconds for method in expected)
    console.print(f"\n  about {duration(total)} in all, if nothing else runs here")
    console.print(f"  {HOW}", style="dim", highlight=False)


def print_comparison(console: Console, record: Comparison, folder: Path) -> None:
    """Prints the table, the summary, the notes, and the paths of the report's files."""
    rows = [("", record.metric.name, "95 % interval", "to full", "", "parameters", "s/epoch")]
    for row in record.rows:
        if row.score is None:
            rows.append((row.name, "", "", "", row.verdict, "", ""))
            continue
        difference, seconds = row.difference_to_full, row.seconds_per_epoch
        low, high = row.interval or (row.score, row.score)
        cells = (
            row.name,
            f"{row.score:.4f}",
            f"{low:.4f} to {high:.4f}",
            f"{difference.value:+.4f}" if difference else "",
            trained_out.verdict(row),
            f"{row.trainable_parameters:,}",
            "" if seconds is None else f"{seconds:.1f}",
        )
        rows.append(cells)
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for cells in rows:  # a table of rich would cut names in a narrow window
        line = "  ".join(
            cell.ljust(width) if place in LEFT else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(cells, widths, strict=True))
        )
        console.print(f"  {escape(line.rstrip())}", highlight=False, soft_wrap=True)
    console.print()
    for sentence in summary(record):
        console.print(f"  {escape(sentence)}", highlight=False)
    for note in record.notes:
        print_note(console, escape(note))
    for name in ("compare.html", "compare.md", FILE):
        console.print(f"  {folder / name}", highlight=False, soft_wrap=True)
