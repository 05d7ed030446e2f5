"""Scores of a language model, from its predictions of the expected tokens.

perplexity = exp(mean loss of a token)     token accuracy = tokens predicted right / tokens
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import Metric

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
MOST = 100.0
"""Cap on the mean loss, in nats, in the computation of perplexity; keeps perplexity finite."""


def token_sums(losses: Floats, right: Floats, sizes: Sequence[int]) -> Floats64:
    """(rows, 3): each row's sum of losses, number of right tokens, and number of tokens.

    Args:
        losses: (tokens,), negative log-likelihood in nats; the tokens of row 0 come first.
        right: (tokens,), 1 if the token was the most likely one.
        sizes: number of tokens of each row.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    sums = [np.add.reduceat(values.astype(np.float64), starts) for values in (losses, right)]
    return np.stack([*sums, np.asarray(sizes, np.float64)], axis=1)


def perplexity(sums: Floats64) -> Floats64:
    """Perplexity from (sum of losses, number of tokens) in the last axis: (..., 2) -> (...,)."""
    values: Floats64 = np.exp(np.minimum(sums[..., 0] / sums[..., 1], MOST))
    return values


METRICS = {
    "perplexity": Metric("perplexity", higher_is_better=False, statistic=perplexity),
    "token_accuracy": Metric("token_accuracy", bounded=True),
}
