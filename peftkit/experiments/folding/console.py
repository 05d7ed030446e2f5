"""Prints the folds' sizes, and the scores of a cross-validation."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from peftkit.experiments.folding.folds import Fold, fold_notes
from peftkit.experiments.folding.record import FILE, FoldsRecord
from peftkit.experiments.folding.summary import choice
from peftkit.reports.console import plain_table
from peftkit.reports.terminal import print_note

PAGE = "folds.html"


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
    metric = record.metric.replace("_", " ")
    table = plain_table("test", "rows", *titles, f"validation {metric}", "best step")
    for fold in record.folds:
        table.add_row(
            f"fold {fold.fold}", f"{fold.rows['test']:,}",
            *(f"{fold.after[name]:.4f}" for name in names),
            f"{fold.validation:.4f}", f"{fold.best_step:,}",
            style="bold" if fold.fold == record.chosen else None,
        )  # fmt: skip
    for title, row in table_over_folds(record):
        table.add_row(title, *row, "", "", style="bold" if title == "all rows" else "dim")
    console.print(table)
    console.print(f"  {escape(choice(record))}", highlight=False)
    for note in record.notes:
        print_note(console, escape(note))
    for what, name in (("adapter", "adapter"), ("page", PAGE), ("record", FILE)):
        console.print(f"  {what:<8} {folder / name}", highlight=False, soft_wrap=True)


def table_over_folds(record: FoldsRecord) -> list[tuple[str, list[str]]]:
    """The lines below the folds, as (title, number of rows and one cell for each score)."""
    scores = record.scores
    total = sum(fold.rows["test"] for fold in record.folds)
    return [
        ("mean", ["", *(f"{score.mean:.4f}" for score in scores)]),
        ("spread (sd)", ["", *(f"{score.spread:.4f}" for score in scores)]),
        (
            "all rows",
            [f"{total:,}", *("" if s.pooled is None else f"{s.pooled:.4f}" for s in scores)],
        ),
        (
            "95 % interval",
            ["", *("{:.3f} to {:.3f}".format(*s.interval) if s.interval else "" for s in scores)],
        ),
    ]
