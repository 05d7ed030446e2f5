"""Scores of a language model, from its predictions of the expected tokens."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.bootstrap import sums_intervals

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
MOST = 100.0
"""Cap on the mean loss, in nats, in the computation of perplexity; keeps perplexity finite."""


def language_scores(
    losses: Floats, right: Floats, sizes: Sequence[int]
) -> tuple[dict[str, float], dict[str, tuple[float, float]], Floats64]:
    """Computes `perplexity` and `token_accuracy`, with 95 % bootstrap intervals over examples.

    perplexity = exp(mean loss of a token)

    Args:
        losses: (tokens,), negative log-likelihood in nats; the tokens of example 0 come first.
        right: (tokens,), 1 if the token was the most likely one.
        sizes: number of tokens of each example.

    Returns:
        The scores by name; their intervals by name; and each example's sums, (examples, 3): of
        losses, of right tokens, of tokens.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.stack(  # (rows, 3): loss, right and tokens of each row
        [np.add.reduceat(values.astype(np.float64), starts) for values in (losses, right)]
        + [np.asarray(sizes, np.float64)],
        axis=1,
    )
    statistics = {"perplexity": _perplexity, "token_accuracy": _token_accuracy}
    return (
        {name: float(statistic(rows.sum(axis=0))) for name, statistic in statistics.items()},
        sums_intervals(rows, statistics),
        rows,
    )


def _perplexity(sums: Floats64) -> Floats64:
    """Perplexity: sums of losses, of right tokens and of tokens, (..., 3) -> (...,)."""
    perplexity: Floats64 = np.exp(np.minimum(sums[..., 0] / sums[..., 2], MOST))
    return perplexity


def _token_accuracy(sums: Floats64) -> Floats64:
    """Token accuracy: sums of losses, of right tokens and of tokens, (..., 3) -> (...,)."""
    accuracy: Floats64 = sums[..., 1] / sums[..., 2]
    return accuracy
