"""Computes scores over all folds: mean, spread, and the score of all rows together.

Each row is a test row of one run, which did not learn from it. The pooled score is the score of all
these rows at once, with the bootstrap interval over them. Two runs share most of their training
rows, so their errors depend on one another, and no unbiased estimate of the variance exists
(Bengio & Grandvalet 2004): the interval leaves out that other training rows give other models.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path

from peftkit.adapters.inspection.digests import RECORD
from peftkit.experiments.folding.record import FoldedScore
from peftkit.metrics.bootstrap import score_interval
from peftkit.metrics.metric import Metric
from peftkit.parts.records import from_json
from peftkit.reports.run_record import read_run
from peftkit.tasks.score import Parts
from peftkit.tasks.task import Task


def folded_scores(task: Task, folders: Sequence[Path]) -> tuple[FoldedScore, ...]:
    """Computes each test score over the runs of all folds.

    Args:
        folders: the run folders.
    """
    after = [read_run(folder).test.after for folder in folders]
    parts = [_parts(folder) for folder in folders]
    same_labels = len({_labels(folder) for folder in folders}) == 1
    names = [name for name in after[0] if all(name in scores for scores in after)]
    return tuple(
        folded_score(
            task.metric(name),
            [scores[name] for scores in after],
            [of_run[name] for of_run in parts if name in of_run],
            same_labels,
        )
        for name in names
    )


def folded_score(
    metric: Metric, scores: Sequence[float], parts: Sequence[Parts], same_labels: bool = True
) -> FoldedScore:
    """Computes one score over all folds.

    Args:
        scores: the test score of each fold.
        parts: for each fold, what each test row adds to the score.
        same_labels: whether label numbers mean the same in all folds.
    """
    mean, spread = statistics.fmean(scores), statistics.stdev(scores)
    pooled = _pooled(parts) if len(parts) == len(scores) else None
    if pooled is None or (pooled.num_labels and not same_labels):
        return FoldedScore(metric.name, mean, spread, None, None, None)
    table, counts = pooled.distinct
    value = float(metric.statistic(counts @ table))
    interval = score_interval(metric, table, counts)
    return FoldedScore(metric.name, mean, spread, value, interval, int(counts.sum()))


def _pooled(parts: Sequence[Parts]) -> Parts | None:
    """The rows of all folds together; None if the folds' columns differ."""
    if len({(len(one.columns), one.num_labels) for one in parts}) != 1:
        return None
    columns = zip(*(one.columns for one in parts), strict=True)
    return Parts(tuple(sum(column, ()) for column in columns), parts[0].num_labels)


def _parts(folder: Path) -> Mapping[str, Parts]:
    content = json.loads((folder / "by_example.json").read_text(encoding="utf-8"))
    return {name: from_json(Parts, value) for name, value in content.items()}


def _labels(folder: Path) -> tuple[str, ...]:
    """The labels of a run's adapter, in the order of their numbers."""
    record = json.loads((folder / "adapter" / RECORD).read_text(encoding="utf-8"))
    return tuple((record.get("head") or {}).get("labels") or ())
