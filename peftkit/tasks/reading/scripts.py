"""Finds the script of texts, which says how to divide them into words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

LETTER = re.compile(r"[^\W\d_]")
HAN = re.compile("[\u3400-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
OTHER_UNSPACED = re.compile("[\u3040-\u30ff\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff]")
"""Kana, Thai, Lao, Burmese and Khmer, which are written without spaces too."""
MOST = 0.5
"""Share of the letters above which a script is that of the texts."""
FEW = 0.1
"""Share of letters above which texts with Chinese characters are Japanese."""


def bleu_tokenizer(texts: Sequence[str]) -> Literal["13a", "zh", "char"]:
    """Returns the name of sacrebleu's tokenizer for texts of one language."""
    whole = "".join(texts)
    letters = len(LETTER.findall(whole)) or 1
    han = len(HAN.findall(whole)) / letters
    other = len(OTHER_UNSPACED.findall(whole)) / letters
    if han + other <= MOST:
        return "13a"
    return "char" if other > FEW else "zh"
