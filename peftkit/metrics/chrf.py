"""Character n-gram F-score of written texts (chrF; Popović 2015, aclanthology.org/W15-3049).

F = 5 P R / (4 P + R)      P, R: n-grams of 1 to 6 characters, over all texts together
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
    """(texts, 18): n-grams of the written text, of the expected one, in both, for n = 1 to 6."""
    counts = CHRF()._extract_corpus_statistics(list(written), [list(expected)])
    return np.array(counts, np.float64)


def chrf(sums: Floats) -> Floats:
    """(..., 18) sums of counts -> (...,) F, 0 to 1; as sacrebleu computes it."""
    compute: Callable[[Any], float] = CHRF()._compute_f_score  # sums need not be whole
    scores = [compute(row) / 100 for row in sums.reshape(-1, sums.shape[-1])]
    return np.array(scores).reshape(sums.shape[:-1])


CHRF_SCORE = TextMetric("chrf", statistic=chrf, parts=ngram_counts)
