"""Recognizes tables of texts and translations by their columns."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations
from typing import Final

from peftkit.data.column_looks import inspect_columns, named_pair
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading

PAIRS: Final = (
    ("source", "target"), ("src", "tgt"), ("src", "trg"), ("sourcetext", "targettext"),
    ("text", "translation"), ("original", "translation"), ("sentence", "translation"),
)  # fmt: skip
"""Usual names of the two columns with a text and its translation."""
LANGUAGES: Final = (
    "ar", "cs", "da", "de", "el", "en", "es", "fa", "fi", "fr", "he", "hi", "hu", "it", "ja", "ko",
    "nl", "no", "pl", "pt", "ro", "ru", "sv", "th", "tr", "uk", "vi", "zh", "arabic", "chinese",
    "czech", "danish", "dutch", "english", "finnish", "french", "german", "greek", "hindi",
    "hungarian", "italian", "japanese", "korean", "norwegian", "polish", "portuguese", "romanian",
    "russian", "spanish", "swedish", "turkish", "ukrainian", "vietnamese",
)  # fmt: skip


def readings(table: Table) -> Iterator[Reading]:
    """Yields the pair of text columns with usual names; else all pairs of columns named after
    languages, in both directions; else a table's only two text columns.
    """
    columns = inspect_columns(table)
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if pair := named_pair(texts, PAIRS):
        yield _reading(*pair, Fit.BY_NAMES)
        return
    spoken = [name for name in texts if folded_name(name) in LANGUAGES]
    if len(spoken) >= 2:
        for text, translation in permutations(spoken, 2):
            yield _reading(text, translation, Fit.BY_NAMES)
    elif len(texts) == 2 and not any(column.looks == "classes" for column in columns.values()):
        yield _reading(texts[0], texts[1], Fit.POSSIBLE)


def _reading(text: str, translation: str, fit: Fit) -> Reading:
    return Reading({"text": text, "translation": translation}, fit)


OFFER: Final = Offer(
    reads="a text and its translation",
    readings=readings,
    base="packaged:smollm2-135m-instruct",
)
