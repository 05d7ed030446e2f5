"""Scores tasks that write text, by how well the model predicts the expected tokens."""

from __future__ import annotations

from typing import TYPE_CHECKING

from peftkit.data.encoded import Examples
from peftkit.metrics.language import language_scores
from peftkit.tasks.score import Parts, Score

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs


def token_score(kept: Outputs, examples: Examples) -> Score:
    """Perplexity and token accuracy, with bootstrap intervals over rows.

    Args:
        kept: (outputs, 2), what `loss_and_hit` returns.
    """
    sizes = examples.outputs_per_row().tolist()
    values, intervals, rows = language_scores(kept[:, 0], kept[:, 1], sizes)
    loss, token_accuracy = Parts.of(rows[:, [0, 2]]), Parts.of(rows[:, [1, 2]])
    return Score(values, intervals, parts={"loss": loss, "token_accuracy": token_accuracy})
