"""Scores the texts that a model writes, in addition to its outputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftkit.data.encoded import Encoded, Prompt
from peftkit.errors import DataError
from peftkit.metrics.metric import TextMetric, Written
from peftkit.tasks.score import Parts, Score, ScoreTable
from peftkit.tasks.task import Task
from peftkit.wording import plural

SIGNATURES = "How written texts are scored"
"""Title of the table of signatures."""


def with_text_scores(
    score: Score, task: Task, prompts: Sequence[Prompt], written: Sequence[str]
) -> Score:
    """Adds the task's metrics of written texts to a score, with their intervals and parts. Omits
    metrics that need more texts than were written.

    Args:
        written: the model's text after each prompt.
    """
    texts = [
        Written(text, (prompt.expected, *prompt.others), prompt.text)
        for prompt, text in zip(prompts, written, strict=True)
    ]
    parts, signatures = {}, []
    for name in task.writing.scores if task.writing else ():
        metric = task.metric(name)
        if not isinstance(metric, TextMetric):
            raise TypeError(f"{task.kind()}.metric({name!r}) is no TextMetric")
        if len(texts) >= max(metric.least, 1):
            parts[name] = Parts.of(metric.parts(texts))
            if metric.signature:
                signatures.append((metric.title, with_references(metric.signature, texts)))
    added = Score.of(task.metric, parts)
    tables = (ScoreTable(SIGNATURES, ("score", "signature"), tuple(signatures)),) * bool(signatures)
    return replace(
        score,
        metrics={**score.metrics, **added.metrics},
        intervals={**score.intervals, **added.intervals},
        parts={**score.parts, **added.parts},
        tables=(*score.tables, *tables),
    )


def with_references(signature: str, texts: Sequence[Written]) -> str:
    """Adds the number of references to a signature, as sacrebleu writes it."""
    counts = {len(text.references) for text in texts}
    return f"nrefs:{counts.pop() if len(counts) == 1 else 'var'}|{signature}"


def check_prompts(encoded: Encoded, task: Task, name: str) -> str:
    """Checks that the splits have enough rows for a metric of written texts. Returns a note if a
    split has fewer rows than the recipe asks for, an empty text if none has.

    Args:
        name: the metric that chooses the best weights.

    Raises:
        DataError: a split has fewer rows to answer than the metric needs.
    """
    metric, writing = task.metric(name), task.writing
    if writing is None or not isinstance(metric, TextMetric):
        return ""
    wanted = {"validation": writing.validation_samples, "test": writing.samples}
    prompts = {"validation": encoded.validation_prompts, "test": encoded.prompts}
    lacking = [split for split, of_split in prompts.items() if len(of_split) < metric.least]
    if lacking:
        counts = " and ".join(
            f"the {split} split has {plural(len(prompts[split]), 'row')}" for split in lacking
        )
        fractions = " and ".join(f"`--task.data.{split}-fraction`" for split in lacking)
        raise DataError(
            f"`training.metric` is `{name}`, which needs {metric.least} written answers; {counts} "
            "to answer",
            f"raise {fractions}, use more rows, or choose another `training.metric`",
        )
    few = [
        f"{plural(len(of_split), f'{split} row')}, not {wanted[split]}"
        for split, of_split in prompts.items()
        if len(of_split) < wanted[split]
    ]
    if not few:
        return ""
    return f"{metric.title} is computed on {' and '.join(few)}: the splits have no more to answer"


def written_scores(score: Score, task: Task) -> tuple[str, ...]:
    """Returns the names of those metrics in a score that judge written texts."""
    names = task.writing.scores if task.writing else ()
    return tuple(name for name in names if name in score.metrics)


def is_text_score(task: Task, metric: str) -> bool:
    """Whether a metric scores written texts; the model then writes at every validation."""
    return task.writing is not None and metric in task.writing.scores
