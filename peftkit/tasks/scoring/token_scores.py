"""Scores tasks that write text, by how well the model predicts the expected tokens."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from peftkit.data.encoded import Examples
from peftkit.metrics.language import token_sums
from peftkit.metrics.metric import Metric
from peftkit.tasks.score import Parts, Score

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs


def token_score(metric: Callable[[str], Metric], kept: Outputs, examples: Examples) -> Score:
    """Perplexity and token accuracy, with bootstrap intervals over rows.

    Args:
        metric: the task's `metric`.
        kept: (outputs, 2), what `loss_and_hit` returns.
    """
    sums = token_sums(kept[:, 0], kept[:, 1], examples.outputs_per_row().tolist())
    losses, right = Parts.of(sums[:, [0, 2]]), Parts.of(sums[:, [1, 2]])
    return Score.of(metric, {"perplexity": losses, "token_accuracy": right, "loss": losses})
