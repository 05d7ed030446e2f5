"""Reads rows of words with tags, and of texts with entities as spans of characters."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from typing import Any

from peftkit.metrics.entities import split_tag
from peftkit.tasks.reading.tag_schemes import write_tags
from peftkit.tasks.reading.text_words import snapped, words_of
from peftkit.tasks.reading.typed_spans import typed_spans
from peftkit.wording import plural


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
        return (
            f"{of_labels} has {plural(len(labels), 'label')}, {of_words} "
            f"{plural(len(words), 'word')}"
        )
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
    read = read_text(text, columns[0])
    if isinstance(read, str):
        return read
    marked = typed_spans(spans, text, columns[1])
    if isinstance(marked, str):
        return marked
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
    for (_, end, kind), (start, _, other) in pairwise(found):
        if start < end:
            word = text[slice(*words[start])]
            return (
                f"{columns[1]} has two entities in the word `{word[:30]}`: `{kind}` and `{other}`"
            )
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
