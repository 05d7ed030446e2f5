"""Cross-validates a recipe: makes a run for each fold, each in a separate process."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.markup import escape

from peftkit.adapters.record import versions
from peftkit.errors import PeftkitError, RecipeError
from peftkit.experiments.folding.console import print_cross_validation, print_sizes
from peftkit.experiments.folding.folder import FoldsFolder, open_folder
from peftkit.experiments.folding.folds import Fold, read_folds, rows_sha256
from peftkit.experiments.folding.record import FoldsRecord, Identity, read_record
from peftkit.experiments.folding.report import write_report
from peftkit.experiments.folding.summary import summarize
from peftkit.experiments.folding.work import run_fold
from peftkit.experiments.jobs.own_modules import foreign_modules, module_digests
from peftkit.experiments.jobs.own_process import refuse_inner, refuse_launcher, run_isolated
from peftkit.recipe import Recipe
from peftkit.reports.console import print_ledger
from peftkit.reports.run_record import read_run
from peftkit.reports.terminal import print_note
from peftkit.stages.preparing import prepare
from peftkit.wording import duration


@dataclass(frozen=True)
class CrossValidated:
    """What `cross_validate` returns: the folder and the record of a cross-validation."""

    folder: Path
    record: FoldsRecord
    """The content of folds.json."""


def cross_validate(
    recipe: Recipe,
    output_dir: str = "",
    console: Console | None = None,
    folds: Sequence[Fold] = (),
) -> CrossValidated:
    """Makes the run of each fold that has none yet; writes the table and the best fold's adapter.

    Args:
        recipe: a recipe whose data has `folds`.
        output_dir: a new folder, or the folder of the same cross-validation, to resume it;
            `runs/<name>` if not given.
        console: where progress is printed; nowhere if not given.
        folds: the recipe's folds, if `read_folds` has already read them.

    Raises:
        PeftkitError: the recipe, the data or the base is wrong, or a run failed; finished runs are
            kept, and the same call resumes.
    """
    refuse_inner("cross-validation", "cross_validate")
    refuse_launcher("a cross-validation", "peftkit run")
    if not recipe.task.source.runs_all_folds:
        raise RecipeError("the recipe has no `folds`", "set them, such as `Data(folds=5)`")
    console = console or Console(quiet=True)
    folds = folds or read_folds(recipe)
    first = prepare(folds[0].recipe, folds[0].rows)  # finds errors before any process starts
    console.print("  fold 1:", highlight=False)
    print_ledger(console, first.ledger)
    print_sizes(console, folds)
    identity = Identity(
        recipe=json.loads(recipe.to_json()),
        rows_sha256=rows_sha256(folds),
        code=module_digests(foreign_modules(recipe)),
        versions=versions(),
    )
    with open_folder(recipe, output_dir, identity) as folder:
        if not output_dir and folder.path.name != recipe.name:
            print_note(console, f"`runs/{recipe.name}` exists; this one goes to `{folder.path}`")
        _run_all(folds, folder, console)
        record = summarize(read_record(folder.path), folds, folder)
        folder.take_adapter(folds[(record.chosen or 1) - 1])
        write_report(folder.path, record)
        folder.write(record)
    print_cross_validation(console, record, folder.path)
    return CrossValidated(folder.path, record)


def _run_all(folds: Sequence[Fold], folder: FoldsFolder, console: Console) -> None:
    """Makes the runs of all folds that have none in the folder."""
    if done := sum(map(folder.is_done, folds)):
        rest = "; the rest follows" if done < len(folds) else ", so nothing is run again"
        print_note(console, f"`{folder.path}` holds {done} of {len(folds)} runs{rest}")
    modules = foreign_modules(folds[0].recipe)
    for fold in folds:
        if folder.is_done(fold):
            continue
        path = folder.run_folder(fold)
        shutil.rmtree(path, ignore_errors=True)  # from an interrupted attempt
        try:
            run_isolated(run_fold, fold.recipe.to_json(), modules, fold.rows, str(path))
        except PeftkitError as error:
            error.message = f"fold {fold.number} of {len(folds)}: {error.message}"
            _say_resumes(folds, folder, console)
            raise
        except (KeyboardInterrupt, SystemExit):
            _say_resumes(folds, folder, console)
            raise
        left = sum(not folder.is_done(other) for other in folds)
        _print_run(fold, folder, console, left)


def _print_run(fold: Fold, folder: FoldsFolder, console: Console, left: int) -> None:
    """Prints a finished run's best validation score, its time, and the time left.

    Args:
        left: number of runs left.
    """
    run = read_run(folder.run_folder(fold))
    seconds = sum(run.seconds.values())
    took = f"{duration(seconds)}{f'; about {duration(seconds * left)} left' if left else ''}"
    metric = escape(run.training.metric.replace("_", " "))
    console.print(
        f"  [dim]{fold.number}/{fold.recipe.task.source.folds}[/] {fold.name}  "
        f"validation {metric} {run.training.best_value:.4f}  [dim]{took}[/]",
        highlight=False,
        soft_wrap=True,
    )


def _say_resumes(folds: Sequence[Fold], folder: FoldsFolder, console: Console) -> None:
    if done := sum(map(folder.is_done, folds)):
        console.print(
            f"  stopped after {done} of {len(folds)} folds; the same command resumes it",
            highlight=False,
        )
