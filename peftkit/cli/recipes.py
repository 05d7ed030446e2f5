"""The commands on recipes: `peftkit run`, `check` and `plan`.

torch is imported after the recipe and its rows are checked.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.cli.recipe_files import hint_beside
from peftkit.errors import BaseModelError, PeftkitError, first_line
from peftkit.recipe import Recipe
from peftkit.reports.terminal import open_console, print_note
from peftkit.stages.run_folder import taken_name


def run_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Trains a recipe and prints the paths of its adapter and receipt."""
    from peftkit.stages.early import check_early

    with hint_beside(file):
        rows = check_early(recipe, options.output_dir)
    console = open_console(options.json)
    console.print(
        f"[bold]{recipe.name}[/]  {recipe.method.kind()} on {recipe.base.name_or_path}, "
        f"{recipe.task.kind()}",
        highlight=False,
        soft_wrap=True,
    )
    if other := taken_name(recipe.name, options.output_dir):
        console.print(
            f"  [yellow]note:[/] `{other.parent / recipe.name}` exists; this run goes to "
            f"`{other}`; `{other.parent / recipe.name}@latest` names the newest",
            highlight=False,
            soft_wrap=True,
        )
    quiet_libraries()
    from peftkit.run import run

    done = run(recipe, options.output_dir, console, rows=rows)
    if done.record is None:
        return
    console.print(f"  adapter  {done.folder / 'adapter'}", highlight=False, soft_wrap=True)
    console.print(f"  receipt  {done.folder / 'receipt.html'}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps({"folder": str(done.folder), **done.record.to_json()}, ensure_ascii=False))


def check_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Checks a recipe without loading weights; prints row and parameter counts and an example."""
    from peftkit.stages.early import check_early

    with hint_beside(file):
        rows = check_early(recipe)
    quiet_libraries()
    from peftkit.reports.console import print_example, print_ledger
    from peftkit.stages.preparing import prepare

    prepared = prepare(recipe, rows)
    console = open_console(options.json)
    print_ledger(console, prepared.ledger, whole=True)
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
        print(json.dumps(value, ensure_ascii=False))


def plan_command(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    """Prints an estimate of a run's memory and time."""
    from peftkit.stages.early import check_early

    with hint_beside(file):
        rows = check_early(recipe)
    quiet_libraries()
    from peftkit.bases.devices import open_accelerator
    from peftkit.reports.console import print_plan
    from peftkit.run import plan
    from peftkit.stages.preparing import prepare
    from peftkit.training.threads import cpu_threads

    prepared = prepare(recipe, rows)
    try:
        with cpu_threads(prepared.recipe.training.threads or 1):
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
    for note in prepared.ledger.notes:
        print_note(console, note)
    if options.json:
        print(json.dumps(planned.to_json(), ensure_ascii=False))
