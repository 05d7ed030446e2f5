"""Summarizes the runs of all folds: scores, the chosen fold, and notes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import datetime

from peftkit.experiments.folding.folder import LAST, FoldsFolder
from peftkit.experiments.folding.folds import Fold, fold_notes
from peftkit.experiments.folding.pooling import folded_scores
from peftkit.experiments.folding.record import FoldScores, FoldsRecord
from peftkit.metrics.metric import Metric
from peftkit.reports.run_record import read_run
from peftkit.wording import plural

SHARED = (
    "folds share training rows, so their scores depend on one another; the interval is over the "
    "rows of this data, and slightly too narrow (Bengio & Grandvalet 2004)"
)


def summarize(begun: FoldsRecord, folds: Sequence[Fold], folder: FoldsFolder) -> FoldsRecord:
    """Returns the record of a cross-validation whose runs are all finished.

    Args:
        begun: the record from its start.
    """
    task, metric_name = folds[0].recipe.task, folds[0].recipe.metric
    scores = tuple(_scores_of(fold, folder) for fold in folds)
    folders = [folder.run_folder(fold) for fold in folds]
    latest = max((run / LAST).stat().st_mtime for run in folders)
    record = replace(
        begun,
        status="finished",
        created=datetime.fromtimestamp(latest).astimezone().isoformat(" ", "minutes"),
        metric=metric_name,
        folds=scores,
        scores=folded_scores(task, folders),
        chosen=best_fold(scores, task.metric(metric_name)),
        seconds=sum(fold.seconds for fold in scores),
    )
    return replace(record, notes=tuple(_notes(record, folds)))


def best_fold(folds: Sequence[FoldScores], metric: Metric) -> int:
    """The fold with the best validation score; among equal ones the first. Test scores are not
    read, or the chosen fold's would be too good.
    """
    return max(folds, key=lambda fold: metric.goodness(fold.validation)).fold


def choice(record: FoldsRecord) -> str:
    """Says which fold's adapter is kept, and why."""
    chosen = next(fold for fold in record.folds if fold.fold == record.chosen)
    return (
        f"the adapter is that of fold {chosen.fold}, which has the best validation "
        f"{record.metric.replace('_', ' ')}, {chosen.validation:.4f}; test rows did not choose it"
    )


def _scores_of(fold: Fold, folder: FoldsFolder) -> FoldScores:
    """Reads the scores of a fold's run from its folder."""
    run = read_run(folder.run_folder(fold))
    return FoldScores(
        fold=fold.number,
        folder=fold.name,
        rows=fold.sizes,
        before=run.test.before,
        baselines=run.test.baseline,
        after=run.test.after,
        validation=run.training.best_value,
        best_step=run.training.best_step,
        num_steps=run.training.num_steps,
        seconds=sum(run.seconds.values()),
    )


def _notes(record: FoldsRecord, folds: Sequence[Fold]) -> Iterator[str]:
    yield from _not_above_baselines(record, folds[0].recipe.task.metric(record.metric))
    yield SHARED
    trained = statistics.fmean(fold.rows["train"] for fold in record.folds)
    yield (
        "folds validate on different rows, so the best one may have had easier rows; its adapter "
        f"has learned from about {plural(round(trained), 'row')}, like those of the other folds"
    )
    if missing := [score.name for score in record.scores if score.pooled is None]:
        yield (
            f"{', '.join(missing).replace('_', ' ')}: not computed from sums over rows, so there "
            "is no score of all rows together"
        )
    yield from fold_notes(folds)


def _not_above_baselines(record: FoldsRecord, metric: Metric) -> Iterator[str]:
    """Yields a note for each baseline that the trained models do not beat on average."""
    after = [fold.after[metric.name] for fold in record.folds if metric.name in fold.after]
    for name in record.folds[0].baselines:
        theirs = [fold.baselines.get(name, {}).get(metric.name) for fold in record.folds]
        values = [value for value in theirs if value is not None]
        if len(values) == len(after) == len(record.folds):
            ours, other = statistics.fmean(after), statistics.fmean(values)
            if not metric.better(ours, other):
                yield (
                    f"the trained models' mean {metric.title}, {ours:.4f}, is not better than "
                    f"that of {name} without training, {other:.4f}"
                )
