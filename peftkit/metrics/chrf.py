"""Character n-gram F-score of written texts (chrF; Popović 2015, aclanthology.org/W15-3049).

F = 5 P R / (4 P + R)      P, R: precision and recall of n-grams of n characters over all texts,
                           averaged over n = 1 to 6
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu.metrics.chrf import CHRF

from peftkit.metrics.metric import TextMetric

Floats = npt.NDArray[np.float64]


def ngram_counts(expected: Sequence[str], written: Sequence[str]) -> Floats:
    """Counts n-grams, (texts, 18): for each n from 1 to 6, those in the written text, in the
    expected text, and in both.
    """
    counts = CHRF()._extract_corpus_statistics(list(written), [list(expected)])
    return np.array(counts, np.float64)


def chrf(sums: Floats) -> Floats:
    """Corpus chrF from 0 to 1, as in sacrebleu: sums of `ngram_counts` (..., 18) -> (...,)."""
    compute: Callable[[Any], float] = CHRF()._compute_f_score  # accepts fractional sums
    scores = [compute(row) / 100 for row in sums.reshape(-1, sums.shape[-1])]
    return np.array(scores).reshape(sums.shape[:-1])


CHRF_SCORE = TextMetric("chrf", bounded=True, statistic=chrf, parts=ngram_counts)
