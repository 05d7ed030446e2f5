"""The commands on recipes: `peftkit run`, `check` and `plan`.

torch is imported after the recipe and its rows are checked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.cli.recipe_files import hint_beside
from peftkit.errors import BaseModelError, PeftkitError, first_line
from peftkit.recipe import Recipe
from peftkit.reports.terminal import open_console, print_note
from peftkit.stages.run_folder import taken_name
from peftkit.wording import duration

if TYPE_CHECKING:
    from rich.console import Console

    from peftkit.experiments.folding.folds import Fold


def run_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Trains a recipe, or cross-validates it; prints the paths of its adapter and receipt."""
    from peftkit.experiments.folding.folds import read_folds

    with hint_beside(file):
        folds = read_folds(recipe, options.output_dir)
    console = open_console(options.json)
    console.print(
        f"[bold]{recipe.name}[/]  {recipe.method.kind()} on {recipe.base.name_or_path}, "
        f"{recipe.task.kind()}",
        highlight=False,
        soft_wrap=True,
    )
    if recipe.task.source.runs_all_folds:
        _cross_validate(recipe, options, folds, console)
        return
    if other := taken_name(recipe.name, options.output_dir):
        console.print(
            f"  [yellow]note:[/] `{other.parent / recipe.name}` exists; this run goes to "
            f"`{other}`; `{other.parent / recipe.name}@latest` names the newest",
            highlight=False,
            soft_wrap=True,
        )
    quiet_libraries()
    from peftkit.run import run

    done = run(recipe, options.output_dir, console, rows=folds[0].rows)
    if done.record is None:
        return
    console.print(f"  adapter  {done.folder / 'adapter'}", highlight=False, soft_wrap=True)
    console.print(f"  receipt  {done.folder / 'receipt.html'}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps({"folder": str(done.folder), **done.record.to_json()}, ensure_ascii=False))


def _cross_validate(
    recipe: Recipe, options: argparse.Namespace, folds: Sequence[Fold], console: Console
) -> None:
    quiet_libraries()
    from peftkit.experiments.folding.cross_validate import cross_validate

    done = cross_validate(recipe, options.output_dir, console, folds)
    if options.json:
        print(json.dumps({"folder": str(done.folder), **done.record.to_json()}, ensure_ascii=False))


def check_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Checks a recipe without loading weights; prints row and parameter counts and an example."""
    from peftkit.experiments.folding.folds import read_folds

    with hint_beside(file):
        folds = read_folds(recipe)
    quiet_libraries()
    from peftkit.experiments.folding.console import print_sizes
    from peftkit.reports.console import print_example, print_ledger
    from peftkit.stages.preparing import prepare

    prepared = prepare(folds[0].recipe, folds[0].rows)
    console = open_console(options.json)
    print_ledger(console, prepared.ledger, whole=True)
    if len(folds) > 1:
        console.print("  the tables above are those of fold 1 of", len(folds), highlight=False)
        print_sizes(console, folds)
    unmergeable = recipe.method.refuses_merging(prepared.base.spec)
    console.print(
        f"\n  {recipe.method.kind()} trains {prepared.trainable_parameters:,} of "
        f"{prepared.total_parameters:,} parameters\n"
        f"  merging: {unmergeable or 'into the weights it was trained on'}\n\n"
        "  the first training example:",
        highlight=False,
        soft_wrap=True,
    )
    print_example(console, prepared.example())
    console.print("\n  no problem found; weights were not loaded", style="green")
    if options.json:
        value = {
            "recipe": json.loads(recipe.model_dump_json()),
            "trainable_parameters": prepared.trainable_parameters,
            "total_parameters": prepared.total_parameters,
            "merging_refused": unmergeable or "",
            "ledger": prepared.ledger.to_json(),
            "example": [asdict(piece) for piece in prepared.example()],
        }
        if len(folds) > 1:
            value["folds"] = [fold.sizes for fold in folds]
        print(json.dumps(value, ensure_ascii=False))


def plan_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Prints an estimate of a run's memory and time."""
    from peftkit.experiments.folding.folds import read_folds

    with hint_beside(file):
        folds = read_folds(recipe)
    quiet_libraries()
    from peftkit.bases.devices import open_accelerator
    from peftkit.bases.products import fast_products
    from peftkit.reports.console import print_plan
    from peftkit.run import plan
    from peftkit.stages.preparing import prepare
    from peftkit.training.threads import cpu_threads

    prepared = prepare(folds[0].recipe, folds[0].rows)
    try:
        with cpu_threads(prepared.recipe.training.threads or 1), fast_products():
            planned = plan(prepared, open_accelerator(prepared.recipe.base), timed=True)
    except (MemoryError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, PeftkitError):
            raise
        raise BaseModelError(
            f"no small copy of `{prepared.base.name}` could be measured: "
            f"{type(error).__name__}: {first_line(error)}",
            "train without a plan, or lower `training.micro_batch_tokens` if memory ran out",
        ) from error
    console = open_console(options.json)
    print_plan(console, planned)
    if len(folds) > 1:
        console.print(
            f"  this is fold 1; the {len(folds)} runs of all folds take about "
            f"{duration(len(folds) * sum(planned.seconds.values()))}, one after another",
            style="bold",
            highlight=False,
        )
    for note in prepared.ledger.notes:
        print_note(console, note)
    if options.json:
        print(json.dumps({**planned.to_json(), "runs": len(folds)}, ensure_ascii=False))
