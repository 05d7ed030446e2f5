"""Prints the folds' sizes, and the scores of a cross-validation."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from peftkit.experiments.folding.folds import Fold, fold_notes
from peftkit.experiments.folding.record import FILE, FoldsRecord
from peftkit.experiments.folding.summary import choice
from peftkit.reports.console import plain_table
from peftkit.reports.terminal import print_note

PAGE = "folds.html"
SHOWN = 6
"""Number of columns of `over_folds` that the console shows."""


def print_sizes(console: Console, folds: Sequence[Fold]) -> None:
    """Prints how many rows each fold has in each split."""
    table = plain_table("fold", *folds[0].sizes)
    for fold in folds:
        table.add_row(str(fold.number), *(f"{size:,}" for size in fold.sizes.values()))
    console.print(table)
    for note in fold_notes(folds):
        print_note(console, escape(note))


def print_cross_validation(console: Console, record: FoldsRecord, folder: Path) -> None:
    """Prints the scores of each fold and over all folds, the chosen fold, notes and paths."""
    names = [score.name for score in record.scores]
    titles = [name.replace("_", " ") for name in names]
    table = plain_table("test", "rows", *titles, "validation", "best step")
    for fold in record.folds:
        table.add_row(
            f"fold {fold.fold}", f"{fold.rows['test']:,}",
            *(f"{fold.after[name]:.4f}" for name in names),
            f"{fold.validation:.4f}", f"{fold.best_step:,}",
            style="bold" if fold.fold == record.chosen else None,
        )  # fmt: skip
    console.print(table)
    columns, *lines = over_folds(record)
    table = plain_table("all folds", *columns[1:SHOWN])
    for line in lines:
        table.add_row(*line[:SHOWN])
    console.print(table)
    for title, score in zip(columns[SHOWN:], lines[0][SHOWN:], strict=True):
        console.print(f"  {title}, mean {titles[0]}: {score}", style="dim", highlight=False)
    console.print(f"  {escape(choice(record))}", highlight=False)
    for note in record.notes:
        print_note(console, escape(note))
    for what, name in (("adapter", "adapter"), ("page", PAGE), ("record", FILE)):
        console.print(f"  {what:<8} {folder / name}", highlight=False, soft_wrap=True)


def over_folds(record: FoldsRecord) -> list[tuple[str, ...]]:
    """The table of scores over all folds: the titles of its columns, then a line for each score.
    The last columns, after the first `SHOWN`, are those of the baselines.
    """
    others = {"before": [fold.before for fold in record.folds]}
    for name in record.folds[0].baselines:
        others[name] = [fold.baselines.get(name, {}) for fold in record.folds]
    rows = sum(fold.rows["test"] for fold in record.folds)
    lines = [("score", "mean", "sd", f"{rows:,} rows", "95 % interval", *others)]
    for score in record.scores:
        low_and_high = "{:.3f} to {:.3f}".format(*score.interval) if score.interval else ""
        lines.append((
            score.name.replace("_", " "),
            f"{score.mean:.4f}",
            f"{score.spread:.4f}",
            "" if score.pooled is None else f"{score.pooled:.4f}",
            low_and_high,
            *(_mean(score.name, of_folds) for of_folds in others.values()),
        ))  # fmt: skip
    return lines


def _mean(name: str, scores: Sequence[Mapping[str, float]]) -> str:
    """The mean of a score over all folds; empty if a fold does not have it."""
    values = [of_fold[name] for of_fold in scores if name in of_fold]
    return f"{statistics.fmean(values):.4f}" if len(values) == len(scores) else ""
