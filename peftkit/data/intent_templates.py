"""Reads the sentence templates of the package home-assistant-intents as rows.

A template such as `turn on [<the>] {name}` stands for many sentences. A row has one of them with
its intent and its slots. The package gives the templates, the rules and the fixed values; names of
rooms, devices, messages and the like are peftkit's own, in samples/home_words.json.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from random import Random
from typing import Any, Final

from peftkit.data.rows import Table
from peftkit.errors import MissingPackageError

SENTENCES: Final = 12
"""Maximum number of different sentences from one template."""
TRIES: Final = 4 * SENTENCES
"""Number of sentences to draw from a template to find different ones."""
PREFIX: Final = "Hass"
"""Prefix of the names of intents in the package."""
COLUMNS: Final = ("text", "intent", "template", "spans")


@dataclass(frozen=True)
class Occurrence:
    """One place in the package where a template stands."""

    intent: str
    """Name of the intent, without `Hass`."""
    domains: tuple[str, ...]
    """Kinds of devices that the slot `name` may name, such as `light`."""


def read_intent_templates(path: Path, language: str, name: str, group: str, install: str) -> Table:
    """Returns a table of sentences with the columns `text`, `intent`, `template` and `spans`.

    Args:
        path: the package's file of `language`.
        name: the data set's name in messages.
        group: the column of groups in the user's recipe, for a note.
        install: the command that installs the package and hassil, which parses templates.

    Raises:
        MissingPackageError: hassil is not installed.
    """
    if importlib.util.find_spec("hassil") is None:
        raise MissingPackageError(f"`{name}` needs the package `hassil`", install)
    package = json.loads(path.read_text(encoding="utf-8"))
    rows = tuple(enumerate(_rows(package, _words(language), language), start=1))
    apart = (
        "sentences of one template may be in two splits; `--task.data.group template` keeps them "
        "together"
    )
    return Table(
        name=f"{name} {language}",
        columns=COLUMNS,
        rows=rows,
        notes=() if group == "template" else (apart,),
        other_tasks=COLUMNS[1:],
    )


def _words(language: str) -> Mapping[str, Any]:
    """Returns peftkit's own values: list -> values; for `name`, kind of device -> values."""
    file = resources.files("peftkit.data") / "samples" / "home_words.json"
    words: Mapping[str, Any] = json.loads(file.read_text(encoding="utf-8"))[language]
    return words


def _rows(
    package: Mapping[str, Any], words: Mapping[str, Any], language: str
) -> Iterator[dict[str, object]]:
    from peftkit.data.template_sampling import Grammar, parse

    lists = {key: values for key, values in package["lists"].items() if "wildcard" not in values}
    grammar = Grammar.parse(package["expansion_rules"], {**lists, **_closed(words)})
    for template, occurrences in _templates(package["intents"]).items():
        digest = hashlib.sha256(f"{language}\x1f{template}".encode()).digest()
        generator = Random(int.from_bytes(digest[:8]))
        tree, seen = parse(template), set[str]()
        for trial in range(TRIES):
            occurrence = occurrences[trial % len(occurrences)]
            names = [value for kind in occurrence.domains for value in words["name"].get(kind, ())]
            sentence = grammar.sample(tree, names, generator)
            if sentence.text and sentence.text.casefold() not in seen:
                seen.add(sentence.text.casefold())
                yield {
                    "text": sentence.text,
                    "intent": occurrence.intent,
                    "template": template,
                    "spans": [span.as_json() for span in sentence.spans],
                }
            if len(seen) == SENTENCES:
                break


def _closed(words: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the own values of all lists but `name`, in the package's notation."""
    return {key: {"values": values} for key, values in words.items() if key != "name"}


def _templates(intents: Mapping[str, Any]) -> dict[str, list[Occurrence]]:
    """Returns template -> the places where it stands; some stand in two."""
    found: dict[str, list[Occurrence]] = defaultdict(list)
    for intent, value in intents.items():
        for block in value["data"]:
            domain: str | Sequence[str] = block.get("requires_context", {}).get("domain", ())
            domains = (domain,) if isinstance(domain, str) else tuple(domain)
            for template in block["sentences"]:
                found[template].append(Occurrence(intent.removeprefix(PREFIX), domains))
    return dict(found)
