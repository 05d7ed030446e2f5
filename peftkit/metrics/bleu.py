"""BLEU of written texts, as sacrebleu computes it (Papineni et al. 2002, aclanthology.org/P02-1040;
Post 2018, arXiv:1804.08771).

BLEU = min(1, exp(1 - r / w)) exp(mean of log p_n)      p_n: share of the n-grams of words, n = 1 to
                                                        4, that a reference has
                                                        w, r: words written, and of the references

Where no n-gram of a length is found, p_n is smoothed (`exp`), as in sacrebleu's default.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from sacrebleu import __version__
from sacrebleu.metrics.bleu import BLEU

from peftkit.metrics.metric import TextMetric, Written
from peftkit.metrics.references import streams

Floats = npt.NDArray[np.float64]
Tokenizer = Literal["13a", "zh", "char"]
"""How sacrebleu divides texts into words: by spaces and punctuation, as `13a` but each Chinese
character by itself, or each character by itself."""


def bleu_metric(tokenizer: Tokenizer) -> TextMetric:
    """Returns the metric `bleu`, from 0 to 1, with a tokenizer."""
    scorer = BLEU(tokenize=tokenizer, force=True)

    def counts(texts: Sequence[Written]) -> Floats:
        """(texts, 10): words written, words of the reference, n-grams of the text that a reference
        has for n from 1 to 4, and all n-grams of the text.
        """
        written = [text.text for text in texts]
        return np.array(scorer._extract_corpus_statistics(written, streams(texts)), np.float64)

    def statistic(sums: Floats) -> Floats:
        compute: Any = scorer._compute_score_from_stats
        scores = [compute(row.tolist()).score / 100 for row in sums.reshape(-1, sums.shape[-1])]
        return np.array(scores).reshape(sums.shape[:-1])

    return TextMetric(
        "bleu", bounded=True, statistic=statistic, parts=counts,
        signature=f"case:mixed|eff:no|tok:{tokenizer}|smooth:exp|version:{__version__}",
    )  # fmt: skip
