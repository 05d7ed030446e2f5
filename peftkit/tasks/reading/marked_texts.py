"""Rows with a text, two entities in it and their relation, in four forms: marks in the text, spans
of characters, lists of words, and lists of pairs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from pydantic import model_validator

from peftkit.data.rows import Table, is_missing
from peftkit.data.source import Source
from peftkit.errors import DataError
from peftkit.metrics.relation_direction import split_direction
from peftkit.tasks.reading.entity_marks import read_marks
from peftkit.tasks.reading.entity_places import entity_of, parsed, read_in_text, read_in_words
from peftkit.tasks.reading.labels import is_empty, label_text
from peftkit.tasks.reading.text_words import Span
from peftkit.wording import plural

Found = tuple[str, Span, Span]
"""A text, and the places of its first and second entity in characters."""
RELATIONS = ("relation", "type", "label")
"""Usual keys of a pair for its relation."""


class MarkedTexts(Source):
    """A source of texts with two entities and the relation between them."""

    text: str = "text"
    """Column with the text. Its entities have marks, `<e1>Ada</e1> lives in <e2>London</e2>`, if
    neither `head` and `tail` nor `pairs` says where they are."""
    tokens: str = ""
    """Column with a list of words, in place of a text; `head` and `tail` then count words."""
    head: str = ""
    """Column with the place of the first entity, e1: `[0, 3]` or `{"start": 0, "end": 3}`, where
    the end is after the last character. `"text": "Ada"` in the object is checked. Empty for
    marks."""
    tail: str = ""
    """Column with the place of the second entity, e2."""
    pairs: str = ""
    """Column with a list of pairs, such as `{"head": [0, 3], "tail": [13, 19], "relation": "r"}`,
    each of which is an example. Empty if a row is one pair."""
    entities: str = ""
    """Column with a list of entities with `start` and `end`; `head` and `tail` are then numbers in
    it, from 0. Empty if they are places."""
    relation: str = "relation"
    """Column with the relation; in a list of pairs, the key of it."""
    label_names: dict[str, str] = {}
    """Relation in the file -> its name, in the order of the classes; empty to use the file's
    own."""
    no_relation: str = "Other"
    """The relation that means none; most scores leave it out."""

    @model_validator(mode="after")
    def _check_columns(self) -> MarkedTexts:
        if bool(self.head) != bool(self.tail):
            raise ValueError("`head` and `tail` name a column each; give both, or neither")
        if self.pairs and self.head:
            raise ValueError("`pairs` holds `head` and `tail` itself; leave those two out")
        if (self.tokens or self.entities) and not (self.pairs or self.head):
            name = "tokens" if self.tokens else "entities"
            raise ValueError(f"`{name}` needs `head` and `tail`, or `pairs`")
        return self

    @property
    def text_columns(self) -> Mapping[str, str]:
        """The task's name of each column but the relation's -> its name in the file."""
        names = ["tokens" if self.tokens else "text", "head", "tail", "pairs", "entities"]
        return {name: getattr(self, name) for name in names if getattr(self, name)}


def read_entities(values: Mapping[str, object], data: MarkedTexts) -> Found | str:
    """Returns the text and the places of both entities in a row, or says what is malformed."""
    if data.pairs:
        pair = values.get(data.pairs)
        if not isinstance(pair, Mapping):
            return f"{data.pairs} has {f'{pair!r}':.60}, not a head, a tail and a relation"
        places = [pair.get("head"), pair.get("tail")]
        names = (f"head in {data.pairs}", f"tail in {data.pairs}")
    else:
        places, names = [values.get(data.head), values.get(data.tail)], (data.head, data.tail)
    if data.entities:
        for number, name in enumerate(names):
            found = entity_of(places[number], values.get(data.entities), (name, data.entities))
            if isinstance(found, str):
                return found
            places[number] = found
    return find_entities(
        values.get(data.tokens or data.text), places[0], places[1],
        (data.tokens or data.text, *names), in_words=bool(data.tokens),
        marks=not (data.pairs or data.head),
    )  # fmt: skip


def find_entities(
    text: Any, head: Any, tail: Any, names: tuple[str, str, str], *, in_words: bool, marks: bool
) -> Found | str:
    """Returns a text and the places of both entities, or says what is malformed.

    Args:
        text: a text, or a list of words.
        head, tail: the places of the entities.
        names: names of the three values in messages.
        in_words: whether `text` is a list of words, and places count words.
        marks: whether marks in the text show the entities, in place of `head` and `tail`.
    """
    if in_words:
        return read_in_words(parsed(text), head, tail, names)
    if not marks:
        return read_in_text(text, head, tail, names)
    if isinstance(text, str) and is_empty(text):
        return f"empty {names[0]}"
    if not isinstance(text, str):
        return f"{names[0]} is {type(text).__name__}, not text"
    return read_marks(text, names[0])


def read_relation(
    values: Mapping[str, object], data: MarkedTexts, table: Table
) -> dict[str, object] | str:
    """Returns a row's relation as `relation`, or says what is malformed."""
    source, names = values, data.label_names or (table.label_names or {}).get(data.relation, {})
    key = data.relation
    if data.pairs:
        pair = values.get(data.pairs)
        source = pair if isinstance(pair, Mapping) else {}
        key = next((key for key in (data.relation, *RELATIONS) if key in source), data.relation)
    value = label_text(source.get(key))
    if value is None or (isinstance(value, str) and is_empty(value)):
        return f"empty {data.relation}"
    if not isinstance(value, str):
        return f"{data.relation} is {type(value).__name__}, not text"
    name, direction = split_direction(value.strip())
    relation = f"{name}({direction})" if direction else name
    if names and relation not in names and relation not in names.values():
        return f"{data.relation} `{relation[:40]}` is not in label_names"
    return {"relation": names.get(relation, relation)}


def a_row_for_each_pair(table: Table, column: str) -> Table:
    """Returns a table in which each row has one pair, with the number of the row that had it.

    Args:
        column: the column with a list of pairs.
    """
    pairs = [(number, values, _pairs(values.get(column))) for number, values in table.rows]
    rows = [(number, {**values, column: pair}) for number, values, found in pairs for pair in found]
    empty = sum(not found for _, _, found in pairs)
    note = f"left out {plural(empty, 'row')} of `{table.name}` without a pair in `{column}`"
    notes = (*table.notes, note) if empty else table.notes
    if table.rows and not rows:
        raise DataError(
            f"`{table.name}`: column `{column}` has no pair in any row",
            "name the column with the lists of pairs: `--task.data.pairs NAME`",
        )
    return replace(table, rows=tuple(rows), notes=notes)


def _pairs(value: Any) -> list[Any]:
    """Returns a list of pairs; another value as the only one, which reading then refuses."""
    found = parsed(value)
    if isinstance(found, list):
        return found
    return [] if is_missing(found) else [found]
