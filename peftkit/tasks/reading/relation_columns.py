"""Recognizes tables of texts with two marked entities and a relation, by their values."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final

from peftkit.data.column_looks import Column, inspect_columns, named_pair
from peftkit.data.rows import Table, folded_name
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.reading.entity_marks import wrong_marks
from peftkit.tasks.reading.entity_places import parsed, read_place
from peftkit.tasks.reading.tagged_words import wrong_words
from peftkit.tasks.reading.text_classification_columns import (
    TEXTS,
    may_be_label,
    named,
    with_usual_name,
)

FITTING = 0.9
"""Least share of the rows that must have marks or places; the others may be malformed."""
PLACES: Final = (
    ("head", "tail"), ("h", "t"), ("subject", "object"), ("subj", "obj"), ("e1", "e2"),
    ("entity1", "entity2"), ("head_span", "tail_span"), ("source", "target"),
)  # fmt: skip
"""Usual names of the two columns with places of entities."""
RELATIONS: Final = ("relation", "relation_type", "rel", "predicate", "label", "class")
NONE: Final = (
    "other", "no_relation", "none", "na", "n/a", "unrelated", "无", "无关系", "其他",
)  # fmt: skip
"""Usual names of the relation that means none; case, `_`, `-` and white space do not matter."""


def readings(table: Table) -> Iterator[Reading]:
    """Yields each text column with marks, each pair of columns with places, and each column with
    lists of pairs; the first two with a column of relations. No other task reads such values.
    """
    columns = inspect_columns(table)
    relations = [name for name, column in columns.items() if may_be_label(column)]
    relations = with_usual_name(relations, RELATIONS)
    for found in (*_marked(columns), *_placed(columns)):
        for relation in relations:
            if relation not in found.values():
                none = _none_in(columns[relation].present)
                yield Reading({**found, "relation": relation, **none}, Fit.UNMISTAKABLE)
    for found in _paired(columns):
        yield Reading(found, Fit.UNMISTAKABLE)


def named_none(labels: Iterable[str]) -> str:
    """Returns the first label that usually means no relation; empty if there is none."""
    return next((label for label in labels if folded_name(label) in map(folded_name, NONE)), "")


def _none_in(labels: Iterable[Any]) -> dict[str, str]:
    """Returns the field `no_relation` if the labels have another name for it than its default."""
    names = {str(label).strip() for label in labels}
    none = named_none(sorted(names))
    return {"no_relation": none} if none and "Other" not in names else {}


def _marked(columns: Mapping[str, Column]) -> Iterator[dict[str, str]]:
    for column in columns.values():
        texts = [value for value in column.present if isinstance(value, str)]
        if texts and sum(not wrong_marks(t, "") for t in texts) >= FITTING * len(column.present):
            yield {"text": column.name}


def _placed(columns: Mapping[str, Column]) -> Iterator[dict[str, str]]:
    pair = named_pair(columns, PLACES)
    if pair is None:
        return
    values = [value for name in pair for value in columns[name].present]
    numbers = [type(parsed(value)) is int for value in values]
    places = [not isinstance(read_place(value, ""), str) for value in values]
    found = {"head": pair[0], "tail": pair[1]}
    yield from _with_text(columns, found, numbers, places)


def _paired(columns: Mapping[str, Column]) -> Iterator[dict[str, str]]:
    for column in columns.values():
        lists = [parsed(value) for value in column.present]
        pairs = [pair for listed in lists if isinstance(listed, list) for pair in listed]
        if not pairs or not all(isinstance(p, Mapping) and {"head", "tail"} <= {*p} for p in pairs):
            continue
        values = [pair[key] for pair in pairs for key in ("head", "tail")]
        numbers = [type(value) is int for value in values]
        places = [not isinstance(read_place(value, ""), str) for value in values]
        keys = named(set.intersection(*({*pair} for pair in pairs)), (*RELATIONS, "type"))
        found = {"pairs": column.name}
        if keys and keys[0] != "relation":
            found["relation"] = keys[0]
        none = _none_in(pair[keys[0]] for pair in pairs) if keys else {}
        yield from ({**way, **none} for way in _with_text(columns, found, numbers, places))


def _with_text(
    columns: Mapping[str, Column], found: dict[str, str], numbers: list[bool], places: list[bool]
) -> Iterator[dict[str, str]]:
    """Yields the columns found with a column of texts or of word lists, and with a column of
    entities if the places are numbers of entities.
    """
    if sum(numbers) >= FITTING * len(numbers) > 0:
        listed = [name for name, column in columns.items() if _are_entities(column)]
        found = {**found, "entities": listed[0]} if listed else {}
    elif sum(places) < FITTING * len(places) or not places:
        found = {}
    if not found:
        return
    words = [name for name, column in columns.items() if _are_words(column)]
    texts = [name for name, column in columns.items() if column.looks == "text"]
    texts = with_usual_name([name for name in texts if name not in found.values()], TEXTS)
    for role, names in (("tokens", words), ("text", texts)):
        for name in names[:1]:
            yield {role: name, **found}
            return


def _are_entities(column: Column) -> bool:
    lists = [parsed(value) for value in column.present]
    listed = [one for of_row in lists if isinstance(of_row, list) for one in of_row]
    return bool(listed) and all(isinstance(one, Mapping) and "start" in one for one in listed)


def _are_words(column: Column) -> bool:
    return column.looks == "lists" and not any(wrong_words(v, "") for v in column.present)


OFFER: Final = Offer(
    reads="a text with <e1> and <e2> around two entities, or with their places, and a relation",
    readings=readings,
    base="packaged:minilm-l6",
    sample={"path": "packaged:alder-vale", "subset": "en", "pairs": "pairs"},
)
