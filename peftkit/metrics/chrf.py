"""Character n-gram F-score of written texts (chrF2; Popović 2015, aclanthology.org/W15-3049).

F = 5 P R / (4 P + R)      P, R: precision and recall of n-grams of n characters over all texts,
                           averaged over n = 1 to 6

Of several references, each text is compared with the one that gives it the highest F.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from sacrebleu import __version__
from sacrebleu.metrics.chrf import CHRF

from peftkit.metrics.metric import TextMetric, Written
from peftkit.metrics.references import streams

Floats = npt.NDArray[np.float64]


def ngram_counts(texts: Sequence[Written]) -> Floats:
    """Counts n-grams, (texts, 18): for each n from 1 to 6, those in the written text, in the
    reference, and in both.
    """
    counts = CHRF()._extract_corpus_statistics([text.text for text in texts], streams(texts))
    return np.array(counts, np.float64)


def chrf(sums: Floats) -> Floats:
    """Corpus chrF from 0 to 1, as in sacrebleu: sums of `ngram_counts` (..., 18) -> (...,)."""
    compute: Callable[[Any], float] = CHRF()._compute_f_score  # accepts fractional sums
    scores = [compute(row) / 100 for row in sums.reshape(-1, sums.shape[-1])]
    return np.array(scores).reshape(sums.shape[:-1])


CHRF_SCORE = TextMetric(
    "chrf", bounded=True, statistic=chrf, parts=ngram_counts,
    signature=f"case:mixed|eff:yes|nc:6|nw:0|space:no|version:{__version__}",
)  # fmt: skip
