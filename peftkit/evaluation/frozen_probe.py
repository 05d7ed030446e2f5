"""The frozen probe: a logistic regression on the untrained base's features.

    p = softmax(W f(x))         f frozen; L2 penalty on W chosen on validation among seven strengths

A fine-tuned model is worth its cost only if it scores above this probe of its base (linear probes:
Alain & Bengio 2016, arXiv:1610.01644).
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.data.encoded import Encoded, Examples
from peftkit.data.head import Head
from peftkit.evaluation.features import Floats
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score
from peftkit.tasks.task import Task

STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Inverse strengths of the L2 penalty, for features scaled to a mean norm of 1."""
ITERATIONS = 500
"""Estimated number of solver iterations over all strengths. Measured: 200 to 450, with MiniLM's
features of 500 to 6,000 rows and 2 to 77 labels."""
UNSEEN = -100.0
"""Log-probability that the probe gives to a label that no training row has."""
ROW = "frozen probe"
"""The probe's name in tables of scores."""


@dataclass(frozen=True)
class Part:
    """All or some of a split's examples, with their features."""

    features: Floats
    """Features of the examples, (examples, d)."""
    examples: Examples


@dataclass(frozen=True)
class FrozenProbe:
    """A fitted regression and its score on the test rows."""

    regularization: float
    tried: list[dict[str, float]]
    """One dictionary for each strength: the inverse strength as `regularization`, the validation
    score as `value`."""
    score: Score
    num_parameters: int


def has_probe(encoded: Encoded) -> bool:
    """Whether the task gives each example one label, so that a logistic regression can replace the
    head.
    """
    head, targets = encoded.head, encoded.train.targets
    of_labels = targets.ndim == 1 and np.issubdtype(targets.dtype, np.integer)
    return of_labels and head.output == "pooled" and len(head.labels) > 1


def fit_probe(parts: Sequence[Part], task: Task, head: Head, metric: str) -> FrozenProbe:
    """Fits the probe on the training rows for each strength, chooses the strength on the validation
    rows, and scores the test rows once.

    Args:
        parts: the parts of the training, validation and test split, in this order.
        metric: name of the score that chooses the strength.
    """
    from threadpoolctl import threadpool_limits

    scale = float(np.linalg.norm(parts[0].features, axis=1).mean()) or 1.0
    train, validation, test = (replace(part, features=part.features / scale) for part in parts)
    best: tuple[tuple[float, float], float, Any] | None = None
    tried = []
    with threadpool_limits(limits=1):  # more threads would compete with torch's
        regressions = [(strength, _fit(train, strength)) for strength in STRENGTHS]
    for strength, fitted in regressions:
        metrics = _score(fitted, validation, task, head).metrics
        value = metrics[metric]
        tried.append({"regularization": strength, "value": value})
        goodness = (task.metric(metric).goodness(value), -metrics["loss"])  # as in `Best`
        if best is None or goodness > best[0]:
            best = (goodness, strength, fitted)
    assert best is not None
    _, strength, fitted = best
    parameters = int(fitted.coef_.size + fitted.intercept_.size)
    return FrozenProbe(strength, tried, _score(fitted, test, task, head), parameters)


def _fit(part: Part, strength: float) -> Any:
    """Fits scikit-learn's logistic regression."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression

    weights = part.examples.weights
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # almost converged is enough
        return LogisticRegression(C=strength, max_iter=2000).fit(
            part.features,
            targets_of(part.examples),
            sample_weight=weights,
        )


def targets_of(examples: Examples) -> npt.NDArray[np.int64]:
    """The label index of each example, (examples,)."""
    return examples.targets


def _score(fitted: Any, part: Part, task: Task, head: Head) -> Score:
    """Scores the regression with the task's metrics and with the mean loss."""
    outputs = np.full((len(part.features), len(head.labels)), UNSEEN, np.float32)
    least = np.exp(UNSEEN, dtype=np.float64)
    outputs[:, fitted.classes_] = np.log(np.maximum(fitted.predict_proba(part.features), least))
    score = task.metrics(outputs, part.examples, head, Decision())
    if losses := score.parts.get("loss"):
        loss = float(task.metric("loss").statistic(losses.table.sum(axis=0)))
    else:  # a custom task without parts for the loss
        loss = -float(outputs[np.arange(len(outputs)), targets_of(part.examples)].mean())
    return replace(score, metrics={**score.metrics, "loss": loss})
