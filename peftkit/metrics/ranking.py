"""Ranking metrics of groups of candidates, with ties averaged.

DCG@k = sum over ranks r <= k of relevance(r) / log2(r + 1)         (Järvelin & Kekäläinen 2002)
NDCG@k = DCG@k / DCG@k of the best order
RR = 1 / rank of the first candidate with the group's highest relevance

Candidates with equal predictions have no order. Both metrics are their expected values over all
orders of such candidates (McSherry & Najork 2008), so a constant prediction gets what a random
order gets.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from peftkit.metrics.metric import Metric

Numbers = npt.NDArray[np.floating[Any]]


def ndcg(predicted: Numbers, relevance: Numbers, k: int) -> float:
    """NDCG@k of one group, from 0 to 1; 1 if no candidate is relevant.

    Args:
        predicted: (candidates,), the highest comes first.
        relevance: (candidates,), at least 0.
    """
    ranks = np.arange(1, len(predicted) + 1)
    discounts = np.where(ranks <= k, 1 / np.log2(ranks + 1), 0.0)
    best = float(np.sort(relevance)[::-1] @ discounts)
    order, starts, sizes = _ties(predicted)
    means = np.add.reduceat(relevance[order], starts) / sizes
    found = float(means @ np.add.reduceat(discounts, starts))
    return found / best if best else 1.0


def reciprocal_rank(predicted: Numbers, relevance: Numbers) -> float:
    """Reciprocal rank of one group: 1 over the rank of the first candidate with the highest
    relevance.

    Args:
        predicted: (candidates,), the highest comes first.
        relevance: (candidates,).
    """
    order, starts, sizes = _ties(predicted)
    best = np.add.reduceat((relevance == relevance.max())[order].astype(int), starts)
    tie = int((best > 0).argmax())
    ahead, size, count = int(starts[tie]), int(sizes[tie]), int(best[tie])
    expected, none_yet = 0.0, 1.0  # none_yet: probability that no best candidate came before
    for place in range(1, size - count + 2):
        now = count / (size - place + 1)
        expected += none_yet * now / (ahead + place)
        none_yet *= 1 - now
    return expected


def _ties(
    predicted: Numbers,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Sorts predictions from the highest to the lowest.

    Returns:
        (candidates,) their order; (ties,) the place where each run of equal predictions starts;
        (ties,) its size.
    """
    order = np.argsort(-predicted, kind="stable")
    ordered = predicted[order]
    starts = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    return order, starts, np.diff(np.append(starts, len(predicted)))


def ndcg_name(k: int) -> str:
    """Name of the metric NDCG@k."""
    return f"ndcg@{k}"


def metrics(k: int) -> dict[str, Metric]:
    """Name -> metric: the means over groups of NDCG@k and of the reciprocal rank, `mrr`."""
    return {name: Metric(name, bounded=True) for name in (ndcg_name(k), "mrr")}
