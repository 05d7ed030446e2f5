"""Reads rows of words with tags, and of texts with entities as spans of characters."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from peftkit.data.rows import is_missing
from peftkit.metrics.entities import split_tag
from peftkit.tasks.reading.tag_schemes import write_tags
from peftkit.tasks.reading.text_words import snapped, words_of

Marked = tuple[int, int, str]
"""An entity in a text: index of its first character, index after its last one, type."""


def read_words(
    words: Any, labels: Any, columns: tuple[str, str], names: Mapping[str, str]
) -> dict[str, object] | str:
    """Returns words and their labels as `tokens` and `labels`, or says what is malformed.

    Args:
        columns: names of the two columns.
        names: label in the file -> its name; empty if they are not named.
    """
    of_words, of_labels = columns
    if wrong := wrong_words(words, of_words) or wrong_labels(labels, of_labels):
        return wrong
    if len(labels) != len(words):
        return f"{of_labels} has {len(labels)} entries, {of_words} {len(words)}"
    in_file = [str(label).strip() for label in labels]
    if unknown := [label for label in in_file if names and label not in names]:
        return f"{of_labels} `{unknown[0]}` is not in label_names"
    named = [names.get(label, label) for label in in_file]
    if untyped := [label for label in named if split_tag(label)[0] and not split_tag(label)[1]]:
        return f"{of_labels} has `{untyped[0]}`, which names no type"
    return {"tokens": words, "labels": named}


def read_spans(
    text: Any, spans: Any, columns: tuple[str, str], names: Mapping[str, str]
) -> dict[str, object] | str:
    """Returns a text as `text`, `tokens`, `spans` (the place of each word), their `labels` in BIO
    and `snapped` (number of entities that were widened to whole words), or says what is malformed.

    Args:
        columns: names of the two columns.
        names: type in the file -> its name; empty if they are not named.
    """
    read, marked = read_text(text, columns[0]), _marked(spans, columns[1])
    if isinstance(read, str):
        return read
    if isinstance(marked, str) or (wrong := _wrong_spans(marked, text, columns[1])):
        return marked if isinstance(marked, str) else wrong
    if unknown := [kind for *_, kind in marked if names and kind not in names]:
        return f"{columns[1]} `{unknown[0]}` is not in label_names"
    places = [(start, end, names.get(kind, kind)) for start, end, kind in marked]
    words = words_of(text)
    found = []
    for start, end, kind in places:
        inside = snapped((start, end), words)
        if inside is None:
            return f"{columns[1]} has {start} to {end}, which holds no word"
        found.append((*inside, kind))
    for (_, end, _), (start, *_) in pairwise(found):
        if start < end:
            word = text[slice(*words[start])]
            return f"{columns[1]} has two entities in the word `{word[:30]}`"
    exact = [(words[first][0], words[stop - 1][1]) for first, stop, _ in found]
    moved = sum(place[:2] != whole for place, whole in zip(places, exact, strict=True))
    return {**read, "labels": write_tags(found, len(words), "BIO"), "snapped": moved}


def read_text(text: Any, column: str, whole_words: bool = False) -> dict[str, object] | str:
    """Returns a text as `text`, `tokens` and `spans` (the place of each word), or says what is
    malformed.

    Args:
        whole_words: see `words_of`.
    """
    if not isinstance(text, str):
        return f"{column} is {type(text).__name__}, not text"
    spans = words_of(text, whole_words)
    if not spans:
        return f"empty {column}"
    return {"text": text, "tokens": [text[start:end] for start, end in spans], "spans": spans}


def wrong_words(words: Any, column: str) -> str:
    """Says why a value is not a list of words; empty if it is one."""
    if isinstance(words, str):
        return f"{column} is a text, not a list of words; JSON lines and Parquet have lists"
    if not isinstance(words, list):
        return f"{column} is {type(words).__name__}, not a list of words"
    if not words:
        return f"empty {column}"
    for place, word in enumerate(words, start=1):
        if not isinstance(word, str):
            return f"{column} has {type(word).__name__} as word {place}"
        if not word.strip():
            return f"{column} has an empty word {place}"
    return ""


def wrong_labels(labels: Any, column: str) -> str:
    """Says why a value is not a list of labels (texts or whole numbers); empty if it is one."""
    if not isinstance(labels, list):
        return f"{column} is {type(labels).__name__}, not a list"
    for place, label in enumerate(labels, start=1):
        if isinstance(label, bool) or not isinstance(label, str | int) or not str(label).strip():
            return f"{column} has {label!r} as label {place}"
    return ""


def are_spans(value: Any) -> bool:
    """Whether a value is a list of entities with a start, an end and a type, or an empty list."""
    return isinstance(value, list) and not isinstance(_marked(value, ""), str)


def _marked(spans: Any, column: str) -> list[Marked] | str:
    """Returns entities from left to right, or says which one is malformed."""
    if is_missing(spans):
        return []
    if not isinstance(spans, list):
        return f"{column} is {type(spans).__name__}, not a list of spans"
    marked: list[Marked] = []
    for span in spans:
        start, end, kind = _fields(span)
        places = [place for place in (start, end) if type(place) is int]
        if len(places) < 2 or not isinstance(kind, str) or not kind.strip():
            shown = f"{span!r}"[:60]
            return f"{column} has {shown}, not a start, an end and a label"
        marked.append((places[0], places[1], kind.strip()))
    return sorted(marked)


def _fields(span: Any) -> Sequence[Any]:
    if isinstance(span, Mapping):
        return span.get("start"), span.get("end"), span.get("label", span.get("type"))
    return span if isinstance(span, list | tuple) and len(span) == 3 else (None, None, None)


def _wrong_spans(marked: Sequence[Marked], text: str, column: str) -> str:
    """Says which entity has no place in the text, or overlaps another one; empty if none does."""
    for start, end, _ in marked:
        if start == end:
            return f"{column} has the empty span {start} to {end}"
        if not 0 <= start < end <= len(text):
            return f"{column} has {start} to {end}, outside the text of {len(text)} characters"
    for (start, end, _), (other, stop, _) in pairwise(marked):
        if other < end:
            return f"{column} has {start} to {end} and {other} to {stop}, which overlap"
    return ""
