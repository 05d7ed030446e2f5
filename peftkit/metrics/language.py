"""Scores of a language model, from what it makes of the tokens that it should have written."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from peftkit.metrics.bootstrap import RESAMPLES

Floats = npt.NDArray[np.float32]
Floats64 = npt.NDArray[np.float64]
MOST = 100.0
"""Mean losses above this give no larger perplexity, which would not be a finite number."""


def language_scores(
    losses: Floats, right: Floats, sizes: Sequence[int]
) -> tuple[dict[str, float], dict[str, tuple[float, float]], Floats64]:
    """`perplexity` and `token_accuracy`; their 95 % bootstrap intervals over examples; what they
    are made of, (examples, 3): sums of losses and of right tokens, and number of tokens.

    perplexity = exp(mean loss of a token)

    Args:
        losses: (tokens,), negative log-likelihood in nats, example after example.
        right: (tokens,), 1 where the token was the likeliest one.
        sizes: tokens of each example.
    """
    starts = np.cumsum([0, *sizes[:-1]])
    rows = np.stack(  # (rows, 3): loss, right and tokens of each row
        [np.add.reduceat(of.astype(np.float64), starts) for of in (losses, right)]
        + [np.asarray(sizes, np.float64)],
        axis=1,
    )
    draws = np.random.default_rng(0).multinomial(
        len(rows), np.full(len(rows), 1 / len(rows)), size=RESAMPLES
    )
    values = _statistics(rows.sum(axis=0)[None])
    resampled = _statistics(draws @ rows)  # (resamples,) of each
    low, high = 0.025, 0.975
    return (
        {name: float(value[0]) for name, value in values.items()},
        {
            name: (float(np.quantile(of, low)), float(np.quantile(of, high)))
            for name, of in resampled.items()
        },
        rows,
    )


def _statistics(sums: Floats64) -> dict[str, Floats64]:
    """From (samples, 3) sums of loss, right and tokens."""
    loss, right, tokens = sums.T
    return {
        "perplexity": np.exp(np.minimum(loss / tokens, MOST)),
        "token_accuracy": right / tokens,
    }
