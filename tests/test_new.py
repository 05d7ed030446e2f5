"""`peftkit new`: the recipe for the columns of a file, or a message that says what to choose."""

from __future__ import annotations

import random
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import peftkit as pk
from peftkit.cli.recipe_code import script_of
from peftkit.cli.recipe_files import recipe_in
from peftkit.data.column_looks import inspect_columns, list_columns
from peftkit.data.reading import read_file
from peftkit.data.splits import load_splits
from tests.conftest import write_csv, write_jsonl
from tests.test_cli import call
from tests.tiny_translator import save_translator

WORDS = [
    "the",
    "film",
    "was",
    "a",
    "warm",
    "dark",
    "story",
    "about",
    "people",
    "who",
    "love",
    "their",
    "town",
    "and",
    "never",
    "leave",
]
MANY = [f"topic {letter}" for letter in "abcdefghijk"]
TAGS = ("O", "B-PER", "I-PER", "B-LOC")


@pytest.fixture
def rng():
    return random.Random(0)


def text(rng) -> str:
    return " ".join(rng.choices(WORDS, k=rng.randint(6, 14)))


def csv_of(rng, path, columns, rows=60, separator=","):
    """A file whose columns hold what `columns` says: name -> `text`, `id`, `score` or classes."""
    make = {
        "text": lambda _: text(rng),
        "id": lambda number: number,
        "score": lambda _: rng.random(),
    }
    values = [
        [make[kind](number) if kind in make else rng.choice(kind) for kind in columns.values()]
        for number in range(rows)
    ]
    if separator == ",":
        return write_csv(path, values, header=tuple(columns))
    lines = [separator.join(map(str, row)) for row in ([*columns], *values)]
    path.write_text("\n".join(lines) + "\n")
    return path


def several(rng) -> list[str]:
    return rng.sample(["joy", "fear", "anger", "love"], k=rng.randint(0, 3))


def tagged(rng, *names):
    words = text(rng).split()
    return {"tokens": words, **{name: [rng.choice(TAGS) for _ in words] for name in names}}


def written(capsys, folder: Path, *arguments) -> pk.Recipe:
    """The recipe that the command writes, whose script is clean and returns it."""
    code, out, error = call(capsys, "new", "mine", *arguments)
    assert code == 0, error
    assert out.startswith("wrote mine.py: ")
    script = folder / "mine.py"
    rules = ["--isolated", "--line-length", "79"]
    for clean in (["check", "--select", "E,W,F,I,N"], ["format", "--check"]):
        done = subprocess.run(
            [sys.executable, "-m", "ruff", *clean, *rules, str(script)], capture_output=True,
            text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + script.read_text()
    recipe = recipe_in(script, [])
    load_splits(recipe.task, recipe.split_seed)
    return recipe


SOUND = {
    "text and label": (
        {"text": "text", "label": ("good", "bad")},
        pk.TextClassification, {"text": "text", "label": "label"},
    ),
    "three columns, one an id": (
        {"id": "id", "Review": "text", "stars": "12345"},
        pk.TextClassification, {"text": "Review", "label": "stars"},
    ),
    "names that say nothing": (
        {"no": "id", "a": "text", "b": ("x", "y", "z")},
        pk.TextClassification, {"text": "a", "label": "b"},
    ),
    "a pair with a label": (
        {"premise": "text", "hypothesis": "text", "label": "012"},
        pk.TextClassification,
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
    "a pair with a similarity": (
        {"sentence1": "text", "sentence2": "text", "score": "score"},
        pk.TextPairScoring,
        {"text": "sentence1", "text_pair": "sentence2", "score": "score"},
    ),
    "candidates with a relevance": (
        {"qid": "0123456789", "query": "text", "passage": "text", "relevance": "0123"},
        pk.TextPairScoring,
        {"text": "query", "text_pair": "passage", "score": "relevance", "query": "qid"},
    ),
    "two texts and a number": (
        {"id": "id", "user": "text", "film": "text", "stars": "score"},
        pk.TextPairScoring,
        {"text": "user", "text_pair": "film", "score": "stars"},
    ),
    "repeated questions with a score": (
        {"id": "id", "question": tuple(f"what is {n}" for n in "abcdefghi"), "answer": "text",
         "score": "01"},
        pk.TextPairScoring, {"text": "question", "text_pair": "answer", "score": "score"},
    ),
    "usual names among others": (
        {"title": "text", "text": "text", "source": "ab", "label": ("good", "bad")},
        pk.TextClassification, {"text": "text", "label": "label"},
    ),
    "question and answer": (
        {"question": "text", "answer": "text", "topic": "abc"},
        pk.Chat, {"prompt": "question", "completion": "answer"},
    ),
    "one column of text": ({"text": "text"}, pk.Chat, {"text": "text"}),
    "a text with a score": (
        {"id": "id", "my text": "text", "depth": "score"},
        pk.TextRegression, {"text": "my text", "score": "depth"},
    ),
    "scores called labels": (
        {"text": "text", "label": "score"},
        pk.TextRegression, {"text": "text", "score": "label"},
    ),
    "a label beside a score": (
        {"text": "text", "label": ("good", "bad"), "score": "score"},
        pk.TextClassification, {"text": "text", "label": "label"},
    ),
    "a pair with a score and a label": (
        {"premise": "text", "hypothesis": "text", "label": "012", "score": "score"},
        pk.TextClassification,
        {"text": "premise", "text_pair": "hypothesis", "label": "label"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SOUND)
def test_a_csv_gives_a_recipe(in_tmp, capsys, rng, shape):
    columns, task, expected = SOUND[shape]
    file = csv_of(rng, in_tmp / "rows.csv", columns)
    recipe = written(capsys, in_tmp, "--data", file.name)
    assert type(recipe.task) is task
    assert recipe.task.data.path == "rows.csv"
    assert len((in_tmp / "mine.py").read_text().splitlines()) <= 40
    assert dict(recipe.task.columns) == expected


@pytest.mark.parametrize(
    ("row", "task", "expected"),
    [
        (
            lambda r: {"messages": [{"role": "user", "content": text(r)},
                                    {"role": "assistant", "content": text(r)}], "lang": "en"},
            pk.Chat, {"messages": "messages"},
        ),
        (
            lambda r: {"conversations": [{"from": "human", "value": text(r)},
                                         {"from": "gpt", "value": text(r)}]},
            pk.Chat, {"messages": "conversations"},
        ),
        (
            lambda r: {"instruction": text(r), "input": "", "output": text(r)},
            pk.Chat, {"prompt": "instruction", "completion": "output"},
        ),
        (
            lambda r: {"instruction": f"Say it {r.choice('abcdefghijkl')}", "output": text(r)},
            pk.Chat, {"prompt": "instruction", "completion": "output"},
        ),
        (
            lambda r: {"id": r.random(), **tagged(r, "ner_tags")},
            pk.TokenClassification, {"tokens": "tokens", "labels": "ner_tags"},
        ),
        (
            lambda r: {"id": r.random(), "text": text(r), "labels": several(r)},
            pk.MultiLabelClassification, {"text": "text", "labels": "labels"},
        ),
        (
            lambda r: {"comment": text(r), "emotions": str(several(r))},
            pk.MultiLabelClassification, {"text": "comment", "labels": "emotions"},
        ),
        (
            lambda r: {"comment": text(r), "tags": "; ".join(r.sample(MANY, k=r.randint(1, 4)))},
            pk.MultiLabelClassification, {"text": "comment", "labels": "tags"},
        ),
        (
            lambda r: {"query id": (n := r.choice("0123456789")), "text": f"the question {n}",
                       "text_pair": text(r), "score": r.random() > 0.5},
            pk.TextPairScoring,
            {"text": "text", "text_pair": "text_pair", "score": "score", "query": "query id"},
        ),
        (
            lambda r: {"text": text(r), "label": r.choice("ab"), "tags": several(r)},
            pk.TextClassification, {"text": "text", "label": "label"},
        ),
        (
            lambda r: {"text": text(r), **tagged(r, "labels")},
            pk.TokenClassification, {"tokens": "tokens", "labels": "labels"},
        ),
    ],
    ids=["messages", "ShareGPT", "instruction", "few instructions", "tokens", "label lists",
         "label lists as text", "many labels with `;`", "candidates of an id", "label and lists",
         "tokens and their text"],
)  # fmt: skip
def test_json_lines_give_a_recipe(in_tmp, capsys, rng, row, task, expected):
    write_jsonl(in_tmp / "rows.jsonl", [row(rng) for _ in range(40)])
    recipe = written(capsys, in_tmp, "--data", "rows.jsonl")
    assert type(recipe.task) is task
    assert dict(recipe.task.columns) == expected


PAIR = {"head": [0, 3], "tail": [4, 7]}


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        (
            lambda r: {"id": r.random(), "sentence": f"<e1>{text(r)}</e1> <e2>{text(r)}</e2>",
                       "label": r.choice("ab")},
            {"text": "sentence", "relation": "label"},
        ),
        (
            lambda r: {"text": text(r), "h": [0, 3], "t": [4, 6], "relation": r.choice("ab")},
            {"text": "text", "head": "h", "tail": "t", "relation": "relation"},
        ),
        (
            lambda r: {"tokens": text(r).split(), "head": [0, 1], "tail": [2, 4],
                       "relation": r.choice("ab")},
            {"tokens": "tokens", "head": "head", "tail": "tail", "relation": "relation"},
        ),
        (
            lambda r: {"text": text(r), "links": [{**PAIR, "relation": r.choice("ab")}]},
            {"text": "text", "pairs": "links"},
        ),
        (
            lambda r: {"tokens": text(r).split(),
                       "entities": [{"start": 0, "end": 1}, {"start": 2, "end": 3}],
                       "relations": [{"head": 0, "tail": 1, "type": r.choice("ab")}]},
            {"tokens": "tokens", "pairs": "relations", "entities": "entities"},
        ),
    ],
    ids=["marks", "places", "words", "pairs", "pairs of entities"],
)  # fmt: skip
def test_marked_entities_give_a_recipe(in_tmp, capsys, rng, row, expected):
    write_jsonl(in_tmp / "rows.jsonl", [row(rng) for _ in range(40)])
    recipe = written(capsys, in_tmp, "--data", "rows.jsonl")
    assert type(recipe.task) is pk.RelationExtraction
    assert dict(recipe.task.columns) == expected


def test_the_relation_that_means_none_is_found(in_tmp, capsys, rng):
    of = ("works_for", "no_relation")
    rows = [(f"<e1>{text(rng)}</e1> <e2>{text(rng)}</e2>", of[n % 2]) for n in range(40)]
    write_csv(in_tmp / "rows.csv", rows, ("text", "relation"))
    recipe = written(capsys, in_tmp, "--data", "rows.csv")
    assert recipe.task.data.no_relation == "no_relation"


def test_check_passes_what_is_written(in_tmp, capsys, rng):
    csv_of(rng, in_tmp / "rows.csv", {"id": "id", "review": "text", "stars": "123"})
    written(capsys, in_tmp, "--data", "rows.csv")
    code, out, error = call(capsys, "check", "mine.py")
    assert code == 0, error
    assert "no problem found" in out


def test_a_translation_takes_a_causal_base_or_an_encoder_decoder(in_tmp, capsys, rng):
    csv_of(rng, in_tmp / "rows.tsv", {"source": "text", "target": "text"}, separator="\t")
    recipe = written(capsys, in_tmp, "--data", "rows.tsv")
    assert recipe.base.name_or_path == "packaged:smollm2-135m-instruct"
    (in_tmp / "mine.py").unlink()
    base = save_translator(in_tmp / "t5")
    recipe = written(capsys, in_tmp, "--data", "rows.tsv", "--base.name-or-path", base)
    assert type(recipe.task) is pk.Translation
    assert dict(recipe.task.columns) == {"text": "source", "translation": "target"}
    code, _, error = call(capsys, "check", "mine.py", "--base.max-unknown-tokens", "1")
    assert code == 0, error


UNCLEAR = {
    "two labels": (
        {"body": "text", "kind": "abc", "place": "xy"},
        [
            "--task TextClassification --task.data.text body --task.data.label kind",
            "--task TextClassification --task.data.text body --task.data.label place",
        ],
    ),
    "two texts without a label": (
        {"left": "text", "right": "text"},
        [
            "--task Chat --task.data.prompt left --task.data.completion right",
            "--task Chat --task.data.text left",
            "--task Chat --task.data.text right",
            "--task Translation --task.data.text left --task.data.translation right",
        ],
    ),
    "two languages": (
        {"en": "text", "de": "text"},
        [
            "--task Translation --task.data.text en --task.data.translation de",
            "--task Translation --task.data.text de --task.data.translation en",
        ],
    ),
    "an odd separator": (
        {"text^label": "text"},
        ["--task Chat --task.data.text 'text^label'"],
    ),
    "labels with a separator": (
        {"text": "text", "labels": ("joy", "fear", "joy;fear", "joy;anger", "anger")},
        [
            "--task MultiLabelClassification --task.data.text text --task.data.labels labels",
            "--task TextClassification --task.data.text text --task.data.label labels",
        ],
    ),
    "few scores": (
        {"text": "text", "score": "12345"},
        [
            "--task TextClassification --task.data.text text --task.data.label score",
            "--task TextRegression --task.data.text text --task.data.score score",
        ],
    ),
    "a text with two scores": (
        {"my text": "text", "length": "score", "depth": "score"},
        [
            "--task TextRegression --task.data.text 'my text' --task.data.score length",
            "--task TextRegression --task.data.text 'my text' --task.data.score depth",
        ],
    ),
}


@pytest.mark.parametrize("shape", UNCLEAR)
def test_what_is_not_clear_is_asked(in_tmp, capsys, rng, shape, bases):
    columns, choices = UNCLEAR[shape]
    csv_of(rng, in_tmp / "rows.csv", columns)
    code, _, error = call(capsys, "new", "mine", "--data", "rows.csv")
    assert code == 2
    assert error.startswith("error: `rows.csv` can be read in ")
    assert all(f"`{name}` (" in error for name in columns)
    assert [line.strip() for line in error.splitlines() if line.startswith("  --")] == choices
    for choice in choices:
        given = [*shlex.split(choice), "--base.name-or-path", bases["bert"]]
        recipe = written(capsys, in_tmp, "--data", "rows.csv", *given)
        fields = re.findall(r"--task\.data\.(\w+) ('.*'|\w+)", choice)
        assert all(getattr(recipe.task.data, name) == v.strip("'") for name, v in fields)
        (in_tmp / "mine.py").unlink()


SETTLED = {
    "few numbers": ({"text": "text", "depth": "12345"}, "TextRegression", {"score": "depth"}),
    "scores that number the rows": (
        {"text": "text", "score": "id"}, "TextRegression", {"score": "score"},
    ),
    "labels and empty cells": (
        {"text": "text", "tags": ("", "joy", "fear", "joy|fear")}, "MultiLabelClassification",
        {"labels": "tags"},
    ),
    "a pair with other names": (
        {"asked": ("where is it", "who is she", "what was that"), "told": "text", "class": "0123"},
        "TextPairScoring", {"text": "asked", "text_pair": "told", "score": "class"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("shape", SETTLED)
def test_a_task_settles_what_is_not_clear(in_tmp, capsys, rng, shape):
    columns, task, expected = SETTLED[shape]
    csv_of(rng, in_tmp / "rows.csv", columns)
    recipe = written(capsys, in_tmp, "--data", "rows.csv", "--task", task)
    assert recipe.task.kind() == task
    assert {**recipe.task.columns, **expected} == recipe.task.columns


def test_lists_that_repeat_a_label_are_labels_if_the_task_says_so(in_tmp, capsys, rng):
    rows = [{"text": text(rng), "labels": [*several(rng), "love", "love"]} for _ in range(40)]
    rows += [{"text": text(rng), "labels": ["fear"]} for _ in range(20)]
    write_jsonl(in_tmp / "rows.jsonl", rows)
    code, _, error = call(capsys, "new", "mine", "--data", "rows.jsonl")
    assert code == 2
    choice = "--task MultiLabelClassification --task.data.text text --task.data.labels labels"
    assert choice in error
    assert written(capsys, in_tmp, "--data", "rows.jsonl", *shlex.split(choice))


def test_decimal_commas_are_numbers_that_need_a_setting(in_tmp, capsys, rng):
    columns = {"text": "text", "score": tuple(f"{n / 8:.3f}".replace(".", ",") for n in range(40))}
    csv_of(rng, in_tmp / "rows.csv", columns, separator=";")
    code, _, error = call(capsys, "new", "mine", "--data", "rows.csv")
    assert code == 2
    assert "hint: for a decimal comma, give `--task.data.decimal ,`" in error
    recipe = written(capsys, in_tmp, "--data", "rows.csv", "--task.data.decimal", ",")
    assert type(recipe.task) is pk.TextRegression


def test_negative_scores_of_candidates_are_not_ranked(in_tmp, capsys, rng):
    rows = [
        {"id": n % 8, "text": f"the question {n % 8}", "text_pair": text(rng), "score": -n % 3 - 1}
        for n in range(60)
    ]
    write_jsonl(in_tmp / "rows.jsonl", rows)
    recipe = written(capsys, in_tmp, "--data", "rows.jsonl")
    assert (type(recipe.task), recipe.task.data.query) == (pk.TextPairScoring, "")


def test_two_lists_of_tags_are_asked(in_tmp, capsys, rng):
    write_jsonl(in_tmp / "rows.jsonl", [tagged(rng, "ner", "pos") for _ in range(40)])
    code, _, error = call(capsys, "new", "mine", "--data", "rows.jsonl")
    assert code == 2
    assert "--task.data.tokens tokens --task.data.labels ner\n" in error
    assert "--task.data.tokens tokens --task.data.labels pos\n" in error
    recipe = written(capsys, in_tmp, "--data", "rows.jsonl", "--task.data.labels", "pos")
    assert recipe.task.data.labels == "pos"


def test_a_file_with_nothing_usable_is_told(in_tmp, capsys, rng):
    csv_of(rng, in_tmp / "rows.csv", {"x": "score", "y": "id"})
    code, _, error = call(capsys, "new", "mine", "--data", "rows.csv")
    assert code == 2
    assert "fits no task; its columns are `x` (numbers), `y` (numbers)" in error
    assert "TextClassification: a text and a label\n" in error
    code, _, error = call(capsys, "new", "mine", "--data", "rows.csv", "--task", "Translation")
    assert code == 2
    assert "which reads a text and its translation" in error
    assert "`--task.data.text NAME`" in error
    assert not (in_tmp / "mine.py").exists()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--data", "nowhere.csv"], "no file or folder `nowhere.csv`"),
        (["--data", "rows.csv", "--task", "Chta"], "did you mean `Chat`?"),
        (["--data", "rows.csv", "--task", "Chat"], "no columns that are clearly for Chat"),
        (["--data", "rows.csv", "--task.data.label", "no"], "has no column `no`"),
        (["--data", "rows.csv", "--training.lerning-rate", "1"], "`--training.learning-rate`?"),
        (["--data", "empty.csv"], "is empty"),
        (["--data", "broken.csv"], "`--task.data.malformed skip`"),
        (["--task", "TokenClassification"], "give a file: `--data FILE`; each of its rows has"),
    ],
)
def test_what_is_wrong_is_told_and_nothing_written(in_tmp, capsys, rng, arguments, told):
    file = csv_of(rng, in_tmp / "rows.csv", {"text": "text", "label": "ab"})
    (in_tmp / "empty.csv").touch()
    (in_tmp / "broken.csv").write_text(file.read_text() + "too,many,fields\n")
    code, _, error = call(capsys, "new", "mine", *arguments)
    assert code == 2
    assert told in error
    assert not (in_tmp / "mine.py").exists()


def test_fields_of_the_recipe_are_written(in_tmp, capsys, rng):
    file = csv_of(rng, in_tmp / "rows.csv", {"text": "text", "label": "ab"})
    file.write_text(file.read_text() + "too,many,fields\n")
    fields = ["--task.data.malformed", "skip", "--task.data.separator", ",", "--method.r", "4",
              "--task.data.label-names", "a", 'say "a"', "b", "it's", "--seed", "3",
              "--method.target-modules", "query", "value"]  # fmt: skip
    recipe = written(capsys, in_tmp, "--data", "rows.csv", *fields)
    assert recipe.task.data.malformed == "skip"
    assert recipe.task.data.label_names == {"a": 'say "a"', "b": "it's"}
    assert (recipe.method.r, recipe.method.target_modules) == (4, ("query", "value"))
    assert recipe.seed == 3
    text = (in_tmp / "mine.py").read_text()
    assert "r=4" in text
    assert "warmup_ratio" not in text  # a default
    assert "revision" not in text


@pytest.mark.parametrize("task", ["TextClassification", "Chat"])
def test_a_task_with_a_packaged_sample_needs_no_file(in_tmp, capsys, task):
    recipe = written(capsys, in_tmp, "--task", task, "--task.data.max-rows", "60")
    assert recipe.task.kind() == task
    assert recipe.task.data.path.startswith("packaged:")


def test_a_saved_recipe_is_the_same_in_code(in_tmp, make_recipe, make_chat):
    for recipe in (make_recipe(dropout=0.25), make_chat(pk.IA3(), task={"system": "Be\n\\kind"})):
        (in_tmp / "again.py").write_text(script_of(recipe, recipe, "again"))
        again = recipe_in(in_tmp / "again.py", [])
        assert again.with_(name=recipe.name) == recipe


OWN = '''
from peftkit.tasks.offers import Fit, Offer, Reading
from peftkit.tasks.text_classification import TextClassification


class Moods(TextClassification):
    """One mood for each text."""

    offer = Offer(
        reads="a text and a mood",
        readings=lambda table: [Reading({"text": "said", "label": "mood"}, Fit.BY_NAMES)]
        if {"said", "mood"} <= set(table.columns)
        else [],
        base="packaged:minilm-l6",
    )
'''


def test_a_task_of_ones_own_is_offered_by_its_own_word(in_tmp, capsys, rng, monkeypatch):
    csv_of(rng, in_tmp / "rows.csv", {"said": "text", "mood": "abc"})
    (in_tmp / "moods.py").write_text(OWN)
    monkeypatch.setattr(pk.Task, "kinds", dict(pk.Task.kinds))
    asked = ["--data", "rows.csv", "--trust-module", "moods.py", "--task", "moods:Moods"]
    code, _, error = call(capsys, "new", "mine", *asked)
    assert code == 0, error
    recipe = recipe_in(in_tmp / "mine.py", [])
    assert recipe.task.kind() == "moods:Moods"
    assert "from moods import Moods\n" in (in_tmp / "mine.py").read_text()


def test_how_columns_look(in_tmp, rng):
    file = write_jsonl(
        in_tmp / "rows.jsonl",
        [
            {"text": text(rng), "label": rng.choice("ab"), "list": [1], "object": {"a": 1},
             "number": rng.random(), "same": "x", "nothing": "", "date": f"2024-01-{n:02}"}
            for n in range(28)
        ],
    )  # fmt: skip
    assert list_columns(inspect_columns(read_file(file))) == (
        "`text` (text), `label` (classes), `list` (lists), `object` (objects), "
        "`number` (numbers), `same` (one value), `nothing` (empty), `date` (other)"
    )
