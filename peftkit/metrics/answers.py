"""Exact match and F1 of answers taken from a text, under three normalizations.

squad     lower case without ASCII punctuation and without `a`, `an`, `the`; F1 of the bags of
          words (Rajpurkar et al. 2016, arXiv:1606.05250)
cmrc2018  lower case without the punctuation of a list; units are Chinese characters and other
          words; F1 of the longest run of units that both have (Cui et al. 2019, arXiv:1810.07366)
drcd      lower case without punctuation and white space; F1 of the bags of characters
          (Shao et al. 2018, arXiv:1806.00920)

precision = common / units of the prediction     recall = common / units of the answer
F1 = 2 precision recall / (precision + recall)

Of several right answers, the one with the highest score counts. Where there is none, the score is 1
if nothing is predicted, else 0. Texts are compared after normalization.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Literal

from peftkit.metrics.metric import Metric, TextMetric, Written

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    Floats = npt.NDArray[np.float64]

Normalization = Literal["squad", "cmrc2018", "drcd"]
NO_ANSWER = "no answer"
"""What reports write where there is no answer."""

ARTICLES = re.compile(r"\b(a|an|the)\b")
ASCII_PUNCTUATION = str.maketrans("", "", string.punctuation)
CMRC_PUNCTUATION = frozenset("-:_*^/\\~`+=，。：？！“”；’《》·、「」（）－～『』")  # noqa: RUF001
"""The list of CMRC 2018's script, which does not contain all punctuation. Its entry for the
ellipsis has two characters and so matches none."""
CMRC_CHARACTER = re.compile("[\u4e00-\u9fa5]")


def exact_match(predicted: str, answers: Sequence[str], normalization: Normalization) -> float:
    """1 if a prediction is one of the answers after normalization, else 0.

    Args:
        predicted: empty if nothing is predicted.
        answers: empty if there is no right answer.
    """
    found = normalized(predicted, normalization)
    return float(found in _normalized_answers(answers, normalization))


def f1(predicted: str, answers: Sequence[str], normalization: Normalization) -> float:
    """F1 of a prediction with the answer that it is most like; see `exact_match` for arguments."""
    found = units(predicted, normalization)
    return max(
        _f1(found, _units_of(answer, normalization), normalization)
        for answer in _normalized_answers(answers, normalization)
    )


def normalized(text: str, normalization: Normalization) -> str:
    """The text that exact match compares."""
    if normalization == "squad":
        plain = text.lower().translate(ASCII_PUNCTUATION)
        return " ".join(ARTICLES.sub(" ", plain).split())
    if normalization == "cmrc2018":
        return "".join(char for char in text.lower().strip() if char not in CMRC_PUNCTUATION)
    return "".join(char for char in text.lower() if not _is_mark_or_space(char))


def units(text: str, normalization: Normalization) -> list[str]:
    """The units that F1 counts: words, or characters of Chinese."""
    return _units_of(normalized(text, normalization), normalization)


def _normalized_answers(answers: Sequence[str], normalization: Normalization) -> list[str]:
    """The right answers after normalization, an empty one if there is none. Answers in English that
    are nothing but articles and punctuation do not count.
    """
    plain = [normalized(answer, normalization) for answer in answers]
    return [answer for answer in plain if answer or normalization != "squad"] or [""]


def _units_of(plain: str, normalization: Normalization) -> list[str]:
    """The units of a normalized text."""
    if normalization == "squad":
        return plain.split()
    return _mixed_units(plain) if normalization == "cmrc2018" else list(plain)


def _is_mark_or_space(char: str) -> bool:
    return char.isspace() or unicodedata.category(char).startswith("P")


def _mixed_units(text: str) -> list[str]:
    """Chinese characters one by one, and the words between them as NLTK divides them."""
    from nltk.tokenize import NLTKWordTokenizer

    words = NLTKWordTokenizer().tokenize
    found: list[str] = []
    start = 0
    for match in CMRC_CHARACTER.finditer(text):
        found += words(text[start : match.start()])
        found.append(match[0])
        start = match.end()
    return [*found, *words(text[start:])]


def _f1(predicted: Sequence[str], answer: Sequence[str], normalization: Normalization) -> float:
    if not predicted or not answer:
        return float(predicted == answer)
    if normalization == "cmrc2018":
        common = longest_common_run(predicted, answer)
    else:
        common = (Counter(predicted) & Counter(answer)).total()
    return 2 * common / (len(predicted) + len(answer))


def longest_common_run(one: Sequence[str], other: Sequence[str]) -> int:
    """Length of the longest run of neighbouring units that two sequences have in common."""
    longest = 0
    before = [0] * (len(other) + 1)
    for unit in one:
        lengths = [0]
        for place, opposite in enumerate(other):
            lengths.append(before[place] + 1 if unit == opposite else 0)
        longest = max(longest, *lengths)
        before = lengths
    return longest


def share(sums: Floats) -> Floats:
    """Sums of scores / numbers of rows; 0 where there are no rows.

    Args:
        sums: (..., 2); the result has the shape (...,).
    """
    import numpy as np

    return np.divide(sums[..., 0], sums[..., 1], out=np.zeros(sums.shape[:-1]),
                     where=sums[..., 1] > 0)  # fmt: skip


OF_ALL = ("f1", "exact_match")
OF_KIND = ("has_answer_f1", "has_answer_exact_match", "no_answer_f1", "no_answer_exact_match")
"""Scores over all rows; and over those with a right answer or without one."""
METRICS = {name: Metric(name, statistic=share, bounded=True) for name in (*OF_ALL, *OF_KIND)}
"""Metrics of sums over rows: of scores, and of the rows that count."""


def written_metric(name: str, normalization: Normalization) -> TextMetric:
    """Returns `f1` or `exact_match` of answers that a model writes."""
    score = {"f1": f1, "exact_match": exact_match}[name]

    def parts(texts: Sequence[Written]) -> Floats:
        """(texts, 2): the score of each text, and its weight, 1."""
        import numpy as np

        return np.array(
            [(score(text.text, text.references, normalization), 1.0) for text in texts], np.float64
        )

    return TextMetric(
        name, bounded=True, statistic=share, parts=parts, signature=f"normalization {normalization}"
    )
