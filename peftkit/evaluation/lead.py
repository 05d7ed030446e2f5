"""The first lines of a run's report: baselines that the trained model does not beat."""

from __future__ import annotations

from collections.abc import Iterable

from peftkit.data.encoded import Encoded
from peftkit.evaluation.probe_rows import ProbeOfRun
from peftkit.metrics.bootstrap import paired_interval
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Parts, Score
from peftkit.tasks.task import Task
from peftkit.wording import plural

Interval = tuple[float, float]


def headline_metric(metric: str, scores: Iterable[str]) -> str:
    """Name of the score to report first: the metric that chose the best weights, or the task's
    first score if that metric is the loss.
    """
    return next(iter(scores)) if metric == "loss" else metric


def lead(
    metric: str,
    after: Score,
    baselines: dict[str, dict[str, float]],
    probe: ProbeOfRun | None,
    encoded: Encoded,
    task: Task,
) -> list[str]:
    """One sentence for each baseline that the trained model does not beat by more than chance.

    Args:
        metric: the score to report first, from `headline_metric`.
        after: the trained model's score on the test split.
        baselines: name of a baseline -> its scores on the test split.
    """
    sentences = []
    guess = baselines.get("majority", {}).get(metric)
    if guess is not None and metric in after.metrics:
        sentences.append(_against_guess(metric, after, guess, task.constant_answer(encoded)))
    if probe is not None and probe.fitted is not None:
        sentences.append(_against_probe(metric, after, probe.fitted.score, _rows(probe), task))
    return list(filter(None, sentences))


def _against_guess(metric: str, after: Score, guess: float, label: str) -> str:
    """A sentence if the trained model's bootstrap interval is not above `guess`, the score of a
    constant answer; empty if it is above.
    """
    value = after.metrics[metric]
    low, high = after.intervals.get(metric, (value, value))
    if low > guess:
        return ""
    name = metric.replace("_", " ")
    if value <= guess:
        return (
            f"not better than a constant answer: {name} {value:.3f}; always answering `{label}` "
            f"gives {guess:.3f}{' too' * (value == guess)}"
        )
    return (
        f"not better than a constant answer by more than chance: {name} {value:.3f} (95 % interval "
        f"{low:.3f} to {high:.3f}); always answering `{label}` gives {guess:.3f}"
    )


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
