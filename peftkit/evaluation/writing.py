"""Scores of the texts that a model writes, beside those of its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftkit.data.encoded import Encoded, Prompt
from peftkit.errors import DataError
from peftkit.metrics.bootstrap import sums_interval
from peftkit.metrics.metric import TextMetric
from peftkit.tasks.score import Parts, Score
from peftkit.tasks.task import Task
from peftkit.wording import plural


def with_written(
    score: Score, task: Task, prompts: Sequence[Prompt], written: Sequence[str]
) -> Score:
    """The score with the task's metrics of written texts, their intervals and parts; without those
    that need more texts.

    Args:
        written: what the model wrote after each prompt.
    """
    expected = [prompt.expected for prompt in prompts]
    metrics, intervals, parts = dict(score.metrics), dict(score.intervals), dict(score.parts)
    for name in task.writing.scores if task.writing else ():
        metric = task.metric(name)
        if not isinstance(metric, TextMetric):
            raise TypeError(f"{task.kind()}.metric({name!r}) is no TextMetric")
        if len(written) < metric.least:
            continue
        table = metric.parts(expected, written)
        metrics[name] = float(metric.statistic(table.sum(axis=0)))
        intervals[name] = sums_interval(table, metric.statistic)
        parts[name] = Parts.of(table)
    return replace(score, metrics=metrics, intervals=intervals, parts=parts)


def check_prompts(encoded: Encoded, task: Task, name: str) -> str:
    """A note if fewer validation rows are answered than the recipe says; empty for metrics that are
    not of written texts.

    Raises:
        DataError: too few can be answered for a metric of written texts.
    """
    metric, writing = task.metric(name), task.writing
    if writing is None or not isinstance(metric, TextMetric):
        return ""
    wanted = {"validation": writing.validation_samples, "test": writing.samples}
    prompts = {"validation": encoded.validation_prompts, "test": encoded.prompts}
    for split, those in prompts.items():
        if len(those) < metric.least:
            raise DataError(
                f"`training.metric` is `{name}`, which needs {metric.least} written answers; the "
                f"{split} split has {plural(len(those), 'row')} to answer",
                "use more rows, or another `training.metric`",
            )
    few = [
        f"{len(those)} {split} rows of {wanted[split]}"
        for split, those in prompts.items()
        if len(those) < wanted[split]
    ]
    return f"{metric.title} is computed of {' and '.join(few)}: no more can be answered" * bool(few)


def written_scores(score: Score, task: Task) -> tuple[str, ...]:
    """Names of the metrics of written texts that a score has."""
    names = task.writing.scores if task.writing else ()
    return tuple(name for name in names if name in score.metrics)


def writes_for(task: Task, metric: str) -> bool:
    """Whether a metric is one of written texts, so that every validation has to write."""
    return task.writing is not None and metric in task.writing.scores
