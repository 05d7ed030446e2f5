"""Answers with the entities in a text, and the tag of each word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.metrics.entities import entities
from peftkit.tasks.answers import Answer
from peftkit.tasks.encoding.token_windows import split_by_row
from peftkit.tasks.reading.text_words import joined
from peftkit.tasks.scoring.class_scores import softmax

if TYPE_CHECKING:
    from peftkit.tasks.task import Outputs


@dataclass(frozen=True)
class FoundEntity:
    """An entity that the model finds in a text."""

    text: str
    type: str
    start: int
    """Index of the first character in the text."""
    end: int
    """Index after the last character."""
    score: float
    """Probability of the least certain tag of its words."""


@dataclass(frozen=True)
class Entities(Answer):
    """The entities that the model finds in a text, and the tags of its words. Places in a list of
    words are those in the words with spaces between them, except between Chinese characters.
    """

    entities: tuple[FoundEntity, ...]
    labels: tuple[str, ...]
    """Tag of each word."""

    def cells(self) -> dict[str, str]:
        """The answer as column -> value, for a file of answers."""
        found = [{**asdict(one), "score": round(one.score, 6)} for one in self.entities]
        return {
            "entities": json.dumps(found, ensure_ascii=False),
            "predicted": json.dumps(self.labels, ensure_ascii=False),
        }

    def line(self, text: str) -> str:
        """The line to print for a text and this answer: each entity in brackets, with its type and
        score.
        """
        line, done = "", 0
        for one in self.entities:
            line += f"{text[done : one.start]}[{one.text}]({one.type} {one.score:.2f})"
            done = one.end
        return line + text[done:]


def entity_answers(kept: Outputs, examples: Examples, head: Head) -> Sequence[Entities]:
    """Returns the entities in each row.

    Args:
        kept: (words, tags), logits.
    """
    chosen, certain = (
        split_by_row(column, examples)
        for column in (kept.argmax(axis=1), softmax(kept).max(axis=1))
    )
    answers = []
    for row, tags, scores in zip(examples.rows, chosen, certain, strict=True):
        labels = [head.labels[tag] for tag in tags]
        text, spans = row.values.get("text"), row.values.get("spans")
        if text is None or spans is None:
            text, spans = joined(row.values["tokens"])
        found = []
        for first, stop, kind in sorted(entities(labels)):
            start, end = spans[first][0], spans[stop - 1][1]
            score = float(scores[first:stop].min())
            found.append(FoundEntity(text[start:end], kind, start, end, score))
        answers.append(Entities(tuple(found), tuple(labels)))
    return answers
