"""Draws sentences from templates of the Home Assistant intent language, which hassil parses.

`(a|b)` is one of several texts, `[a]` an optional one, `(a;b)` both in any order, `<rule>` another
template, `{list:slot}` a value of a list, which fills a slot.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any

from hassil import expression as parsed
from hassil.parse_expression import parse_sentence

OMITTED = 0.5
"""Probability of leaving out an optional text."""
HALVES = 0.2
"""Probability of a half in a list of numbers with halves."""


@dataclass(frozen=True)
class Span:
    """A slot's value in a text, in characters."""

    start: int
    end: int
    """End, exclusive."""
    label: str
    """Name of the slot."""

    def as_json(self) -> dict[str, object]:
        """Returns the span as a JSON object."""
        return {"start": self.start, "end": self.end, "label": self.label}


@dataclass
class Sentence:
    """A sentence that grows from left to right."""

    text: str = ""
    spans: list[Span] = field(default_factory=list)

    def add(self, text: str) -> None:
        """Appends a text. Each run of white space becomes one space; at the beginning it is left
        out.
        """
        for character in text:
            if not character.isspace():
                self.text += character
            elif self.text and not self.text.endswith(" "):
                self.text += " "

    def fill(self, slot: str, value: str) -> None:
        """Appends the value of a slot."""
        start = len(self.text)
        self.text += value
        self.spans.append(Span(start, len(self.text), slot))

    def ends_with(self, word: str) -> bool:
        """Whether the last word is `word`."""
        text = self.text.rstrip()
        before = text[: len(text) - len(word)]
        whole = not word.isascii() or not before[-1:].isalnum()
        return bool(word) and text.endswith(word) and whole


@dataclass(frozen=True)
class Grammar:
    """The rules and lists that templates refer to."""

    rules: Mapping[str, parsed.Expression]
    values: Mapping[str, Sequence[parsed.Expression]]
    """List -> its values."""
    ranges: Mapping[str, Mapping[str, Any]]
    """List of numbers -> `from`, `to`, and perhaps `step` and `fractions`."""

    @classmethod
    def parse(cls, rules: Mapping[str, str], lists: Mapping[str, Mapping[str, Any]]) -> Grammar:
        """Makes a grammar from the package's notation."""
        return cls(
            rules={name: parse(text) for name, text in rules.items()},
            values={
                name: [
                    parse(value if isinstance(value, str) else value["in"])
                    for value in entry["values"]
                ]
                for name, entry in lists.items()
                if "values" in entry
            },
            ranges={name: entry["range"] for name, entry in lists.items() if "range" in entry},
        )

    def sample(
        self, template: parsed.Expression, names: Sequence[str], generator: Random
    ) -> Sentence:
        """Returns a sentence of a template.

        Args:
            names: values of the list `name`.
        """
        sentence = Sentence()
        self._extend(sentence, template, names, generator)
        sentence.text = sentence.text.rstrip()
        return sentence

    def _extend(
        self,
        sentence: Sentence,
        part: parsed.Expression,
        names: Sequence[str],
        generator: Random,
    ) -> None:
        """Appends a text that `part` stands for."""
        if isinstance(part, parsed.TextChunk):
            sentence.add(part.original_text)
        elif isinstance(part, parsed.ListReference):
            sentence.fill(part.slot_name, self._value(part.list_name, names, generator))
        elif isinstance(part, parsed.RuleReference):
            self._extend(sentence, self.rules[part.rule_name], names, generator)
        elif isinstance(part, parsed.Alternative):
            items = [item for item in part.items if item != parsed.TextChunk.empty()]
            left_out = part.is_optional and (
                generator.random() < OMITTED
                or any(sentence.ends_with(literal(item)) for item in items)
            )
            if items and not left_out:
                self._extend(sentence, generator.choice(items), names, generator)
        elif isinstance(part, parsed.Group):
            items = list(part.items)
            if isinstance(part, parsed.Permutation):
                generator.shuffle(items)
            for item in items:
                self._extend(sentence, item, names, generator)

    def _value(self, name: str, names: Sequence[str], generator: Random) -> str:
        """Returns a value of a list, without white space around it."""
        if name == "name":
            return generator.choice(names)
        if name in self.ranges:
            return _number(self.ranges[name], generator)
        value = Sentence()
        self._extend(value, generator.choice(self.values[name]), names, generator)
        return value.text.strip()


def parse(template: str) -> parsed.Expression:
    """Returns a template as a tree."""
    return parse_sentence(template).expression


def _number(numbers: Mapping[str, Any], generator: Random) -> str:
    """Returns a number of a range."""
    step = numbers.get("step", 1)
    number = generator.randrange(numbers["from"], numbers["to"] + 1, step)
    half = "fractions" in numbers and number < numbers["to"] and generator.random() < HALVES
    return f"{number}.5" if half else str(number)


def literal(part: parsed.Expression) -> str:
    """Returns the text of a part without choices or references; empty if it has any."""
    if isinstance(part, parsed.TextChunk):
        return part.original_text.strip()
    if isinstance(part, parsed.Sequence) and part.items:
        texts = [item.original_text for item in part.items if isinstance(item, parsed.TextChunk)]
        if len(texts) == len(part.items):
            return "".join(texts).strip()
        if len(part.items) == 1:
            return literal(part.items[0])
    return ""
