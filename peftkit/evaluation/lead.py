"""The first lines of a run's report: baselines that the trained model does not beat."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from peftkit.data.encoded import Encoded
from peftkit.evaluation.frozen_probe import ROW
from peftkit.evaluation.probe_rows import ProbeOfRun
from peftkit.metrics.bootstrap import paired_interval
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Parts, Score
from peftkit.tasks.task import Task
from peftkit.wording import plural

Interval = tuple[float, float]
MAJORITY = "majority"
"""Name of the baseline that always answers the most frequent label."""
START = "start"
"""Name of the row with the scores of the adapter from which training starts."""


def headline_metric(metric: str, scores: Iterable[str]) -> str:
    """Name of the score to report first: the metric that chose the best weights, or the task's
    first score if that metric is the loss.
    """
    return next(iter(scores)) if metric == "loss" else metric


def lead(
    metric: str,
    before: Score,
    after: Score,
    baselines: dict[str, dict[str, float]],
    probe: ProbeOfRun | None,
    encoded: Encoded,
    task: Task,
) -> list[str]:
    """One sentence for each baseline that the trained model does not beat by more than chance. If
    it beats all of them: one if it is worse than before training.

    Args:
        metric: the score to report first, from `headline_metric`.
        before, after: the model's score on the test split, before training and after it.
        baselines: name of a baseline -> its scores on the test split.
    """
    sentences = []
    for name, scores in guesses(baselines).items():
        if metric in scores and metric in after.metrics:
            what = f"the {name} of the training rows"
            if name == MAJORITY:
                what = f"always answering `{task.constant_answer(encoded)}`"
            judged = task.metric(metric)
            sentences.append(_against_guess(judged, after, scores[metric], what))
    if probe is not None and probe.fitted is not None:
        sentences.append(_against_probe(metric, after, probe.fitted.score, _rows(probe), task))
    return list(filter(None, sentences)) or list(_against_before(metric, before, after, task))


def guesses(baselines: dict[str, dict[str, float]]) -> dict[str, dict[str, float]]:
    """The baselines that always give the same answer, such as the most frequent label."""
    return {name: scores for name, scores in baselines.items() if name not in (ROW, START)}


def _against_guess(metric: Metric, after: Score, guess: float, what: str) -> str:
    """A sentence if the trained model's bootstrap interval is not better than a constant answer's
    score, `guess`; else empty.

    Args:
        what: the constant answer, in words.
    """
    value = after.metrics[metric.name]
    low, high = after.intervals.get(metric.name, (value, value))
    if metric.better(low, guess) and metric.better(high, guess):
        return ""
    if not metric.better(value, guess):
        return (
            f"not better than a constant answer: {metric.title} {value:.3f}; {what} gives "
            f"{guess:.3f}{' too' * (value == guess)}"
        )
    return (
        f"not better than a constant answer by more than chance: {metric.title} {value:.3f} (95 % "
        f"interval {low:.3f} to {high:.3f}); {what} gives {guess:.3f}"
    )


def _against_before(metric: str, before: Score, after: Score, task: Task) -> Iterator[str]:
    """Yields a sentence if the trained model's score is worse than before training."""
    if metric in before.metrics and metric in after.metrics:
        judged, value, old = task.metric(metric), after.metrics[metric], before.metrics[metric]
        if judged.better(old, value) and f"{old:.3f}" != f"{value:.3f}":
            yield f"worse than before training: {judged.title} {value:.3f}, before {old:.3f}"


def _against_probe(metric: str, after: Score, probe: Score, rows: str, task: Task) -> str:
    """A sentence if the trained model does not beat the probe in a paired bootstrap over the test
    rows; empty if it does.
    """
    comparable = [name for name in (metric, "accuracy", *after.parts)
                  if name in after.parts and name in probe.parts]  # fmt: skip
    if not comparable:
        return ""
    name = comparable[0]
    ours, others, judged = after.metrics[name], probe.metrics[name], task.metric(name)
    low, high = difference_interval(after.parts[name], probe.parts[name], judged)
    if min(judged.goodness(low), judged.goodness(high)) > 0:
        return ""
    worse = max(judged.goodness(low), judged.goodness(high)) < 0
    ahead = judged.better(ours, others)
    return (
        f"{'worse' if worse else 'not better'} than the frozen probe, a logistic regression on the "
        f"untrained base{rows}{', by more than chance' * ahead}: {name.replace('_', ' ')} "
        f"{ours:.3f} against {others:.3f} (difference {low:+.3f} to {high:+.3f}, 95 % of a paired "
        "bootstrap)"
    )


def difference_interval(ours: Parts, others: Parts, metric: Metric) -> Interval:
    """Bootstrap interval of the difference between two models' scores on the same rows: the score
    from `ours` minus the score from `others`.
    """
    return paired_interval(ours.table, others.table, metric.statistic)


def _rows(probe: ProbeOfRun) -> str:
    if probe.rows == probe.num_train:
        return ""
    return f" with {probe.rows:,} of its {plural(probe.num_train, 'training row')}"
