"""Sentences from home-assistant-intents: their slots, their templates, the same ones every time."""

from __future__ import annotations

import json
import re
import sys
from collections import Counter
from dataclasses import replace
from importlib import resources
from random import Random

import pytest

from peftkit import Data, Source, TextClassification
from peftkit.data.intent_templates import SENTENCES
from peftkit.data.packaged import DATA, find_packaged
from peftkit.data.reading import read_source
from peftkit.data.splits import load_splits
from peftkit.data.template_sampling import Grammar, parse
from peftkit.errors import MissingPackageError, PeftkitError

NAME = "packaged:home-assistant-intents"
LANGUAGES = ("en", "zh-CN")
WORDS = json.loads(
    (resources.files("peftkit.data") / "samples/home_words.json").read_text(encoding="utf-8")
)


def table_of(language: str, group: str = "template"):
    return read_source(Source(path=NAME, subset=language, group=group))["all"]


@pytest.fixture(scope="module")
def rows():
    return {language: [row for _, row in table_of(language).rows] for language in LANGUAGES}


@pytest.fixture(scope="module")
def packages():
    paths = {language: find_packaged(NAME, DATA, language)[1] for language in LANGUAGES}
    return {language: json.loads(path.read_text("utf-8")) for language, path in paths.items()}


def listed(language: str) -> dict[str, set[str]]:
    """Slot of our own lists -> its values."""
    words = WORDS[language]
    names = {value for values in words["name"].values() for value in values}
    return {
        "area": set(words["area"]),
        "floor": set(words["floor"]),
        "name": names | set(words["timer_name"]),
        "item": {*words["shopping_list_item"], *words["todo_list_item"]},
        "message": set(words["message"]),
        "conversation_command": set(words["timer_command"]),
        "search_query": set(words.get("search_query", ())),
    }


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_whole_and_every_span_covers_its_value(rows, language):
    own = listed(language)
    for row in rows[language]:
        text, end = row["text"], 0
        assert text == " ".join(text.split())
        assert text
        assert not re.search(r"[\[\](){}<>|;]", text), text
        for span in row["spans"]:
            value = text[span["start"] : span["end"]]
            assert end <= span["start"] < span["end"] <= len(text)
            assert value == value.strip()
            assert value in own.get(span["label"], {value}), (text, span)
            end = span["end"]
        slots = {slot.split(":")[-1] for slot in re.findall(r"\{([^}]*)\}", row["template"])}
        if "<" not in row["template"] and "[" not in row["template"]:
            assert {span["label"] for span in row["spans"]} == slots


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_are_within_their_range(rows, language):
    limits = {"hours": 100, "minutes": 100, "seconds": 100, "brightness": 100, "volume_level": 100}
    found = 0
    for row in rows[language]:
        for span in row["spans"]:
            value = row["text"][span["start"] : span["end"]]
            if span["label"] in limits and value.isdecimal():
                found += 1
                assert 0 <= int(value) <= limits[span["label"]]
    assert found > 1000


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_template_gives_at_most_twelve_different_sentences(rows, packages, language):
    by_template = Counter(row["template"] for row in rows[language])
    every = {
        (intent.removeprefix("Hass"), sentence)
        for intent, value in packages[language]["intents"].items()
        for block in value["data"]
        for sentence in block["sentences"]
    }
    assert {(row["intent"], row["template"]) for row in rows[language]} == every
    assert max(by_template.values()) == SENTENCES
    texts = {(row["template"], row["text"].casefold()) for row in rows[language]}
    assert len(texts) == len(rows[language])


def test_chinese_has_no_spaces(rows):
    assert not [row["text"] for row in rows["zh-CN"] if " " in row["text"]]


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_sentences_are_the_same_every_time(rows, language):
    assert [row for _, row in table_of(language).rows] == rows[language]


def test_the_first_sentence_is_this_one(rows):
    sample = next(row for row in rows["en"] if row["intent"] == "Broadcast")
    assert sample["text"] == "announce who took the car keys"
    assert sample["spans"] == [{"start": 9, "end": 30, "label": "message"}]


@pytest.mark.parametrize("language", LANGUAGES)
def test_no_template_is_in_two_splits(language):
    data = Data(path=NAME, subset=language, label="intent", group="template")
    splits, ledger = load_splits(TextClassification(data=data), 0)
    templates = [{row.group for row in split} for split in splits.named().values()]
    assert sum(map(len, templates)) == len(set.union(*templates)) > 600
    assert not any("template" in note for note in ledger.notes)
    assert not any("nothing reads" in note for note in ledger.notes)


def test_without_groups_a_note_says_what_is_wrong():
    (note,) = table_of("en", group="").notes
    assert "`--task.data.group template`" in note


@pytest.mark.parametrize("language", LANGUAGES)
def test_our_words_fill_what_the_package_leaves_open_and_nothing_else(packages, language):
    package, words = packages[language], WORDS[language]
    used = {
        name
        for value in package["intents"].values()
        for block in value["data"]
        for text in (*block["sentences"], *package["expansion_rules"].values())
        for name in re.findall(r"\{([^}:]*)", text)
    }
    fixed = {name for name, entry in package["lists"].items() if "wildcard" not in entry}
    assert set(words) == used - fixed
    kinds = {
        kind
        for value in package["intents"].values()
        for block in value["data"]
        for kind in block.get("requires_context", {}).get("domain", ())
        if any("{name}" in s or "<name>" in s for s in block["sentences"])
    }
    assert set(words["name"]) == kinds - {"input_button"}
    common = ("area", "message", "timer_name", "timer_command", "shopping_list_item")
    assert min(len(words[key]) for key in (*common, "todo_list_item")) >= 25
    assert sum(map(len, words["name"].values())) > 200
    for values in (*words["name"].values(), *(v for k, v in words.items() if k != "name")):
        assert len(set(values)) == len(values) >= 6


def sentences(template: str, **lists: object) -> set[str]:
    grammar, tree = Grammar.parse({"the": "(the|my)"}, lists), parse(template)
    return {grammar.sample(tree, ["lamp"], Random(seed)).text for seed in range(60)}


def test_templates_are_read_as_hassil_reads_them():
    assert sentences("turn [<the>] {name} (on|off)") == {
        f"turn {the}lamp {state}" for the in ("", "the ", "my ") for state in ("on", "off")
    }
    assert sentences("(a;b)") == {"a b", "b a"}
    numbers = {"range": {"from": 10, "to": 30, "step": 10}}
    assert sentences("to {level}[%]", level=numbers) == {
        f"to {number}{sign}" for number in (10, 20, 30) for sign in ("", "%")
    }


def test_an_optional_word_is_not_said_twice():
    floors = {"values": ["top floor", "attic"]}
    assert sentences("on {floor} [floor]", floor=floors) == {
        "on top floor", "on attic", "on attic floor",
    }  # fmt: skip


def test_what_is_missing_is_told(monkeypatch):
    with pytest.raises(PeftkitError, match="has no subset `english`; it has `en`, `zh-CN`"):
        table_of("english")
    with pytest.raises(PeftkitError, match="has a file for each of `en`, `zh-CN`"):
        table_of("")
    entry = replace(DATA["home-assistant-intents"], subsets=(("en", "0" * 64),))
    with pytest.raises(PeftkitError, match="is not the published file"):
        find_packaged(NAME, {"home-assistant-intents": entry}, "en")
    monkeypatch.setitem(sys.modules, "hassil", None)
    with pytest.raises(MissingPackageError, match="needs the package `hassil`") as caught:
        table_of("en")
    assert caught.value.hint.startswith("pip install home-assistant-intents==")
