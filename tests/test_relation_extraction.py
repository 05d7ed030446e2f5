"""Relation extraction: files and rows with marked entities, markers in tokens, the official score
beside a second computation of it, runs, answers and the receipt.
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter

import numpy as np
import pytest
from safetensors.torch import load_file

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.bases.base import Base
from peftkit.bases.opening import open_base
from peftkit.cli.main import command_line
from peftkit.data.packaged import MODELS, find_packaged
from peftkit.data.reading import read_file
from peftkit.data.rows import Row, Table
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import DataError, PeftkitError, RecipeError
from peftkit.metrics.classification import label_counts
from peftkit.metrics.relation_direction import split_direction
from peftkit.metrics.relations import (
    METRICS,
    micro_counts,
    official_entries,
    relation_of_labels,
    relations_of,
)
from peftkit.reports import confusion
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.answers import Decision
from peftkit.tasks.encoding.marked_encoding import MARKERS, cut_around, encode_marked, marked_text
from peftkit.tasks.reading.entity_marks import ends_inside_words, marked, read_marks, shown
from peftkit.tasks.reading.entity_places import read_in_text, read_in_words
from peftkit.tasks.scoring.relation_scores import relation_score
from tests.conftest import FILLER, write_csv, write_jsonl

LABELS = ("Made(e1,e2)", "Made(e2,e1)", "Part(e1,e2)", "Part(e2,e1)", "Other")
SIGNS = dict(zip(LABELS, ("warm", "cold", "bright", "dark", "very"), strict=True))
"""Relation -> the word between two entities that shows it."""


def sentence(rng: random.Random, number: int) -> tuple[str, str]:
    """A text with marks, and its relation."""
    relation = LABELS[number % len(LABELS)]
    one, other = rng.sample(range(20), 2)
    before, after = (" ".join(rng.choices(FILLER, k=3)) for _ in range(2))
    text = f"{before} <e1>word{one}</e1> {SIGNS[relation]} <e2>word{other}</e2> {after}"
    return text, relation


def sentences(count: int) -> list[tuple[str, str]]:
    rng = random.Random(0)
    return [sentence(rng, number) for number in range(count)]


@pytest.fixture(scope="module")
def semeval(tmp_path_factory):
    """A folder with files in the format of SemEval-2010 task 8."""
    folder, rows = tmp_path_factory.mktemp("semeval"), sentences(240)
    for name, part in (("train", rows[:200]), ("test", rows[200:])):
        blocks = (f'{n}\t"{text}"\n{of}\nComment:\n\n' for n, (text, of) in enumerate(part, 1))
        (folder / f"{name}.txt").write_text("".join(blocks))
    return folder


def task_of(path, **fields) -> pk.RelationExtraction:
    settings = {name: fields.pop(name) for name in ("pooling", "max_length") if name in fields}
    data = pk.MarkedTexts(path=str(path), **fields)
    return pk.RelationExtraction(data=data, **settings)


# Files


def test_a_semeval_file_has_a_row_for_each_sentence(tmp_path):
    path = tmp_path / "train.txt"
    path.write_bytes(
        b'\xef\xbb\xbf1\t"A <e1>cup</e1> of <e2>tea</e2>, "she" said."\r\n'
        b"Content-Container(e2,e1)\r\nComment: odd\r\n\r\n"
        b'2\t"<e1>It</e1> is <e2>he</e2>."\nOther\nComment:\n'
        b'3\t"<e1>a</e1> <e2>b</e2>"\nOther'
    )
    table = read_file(path)
    assert table.columns == ("id", "text", "relation", "comment")
    assert [number for number, _ in table.rows] == [1, 5, 8]
    assert table.unit == "line"
    assert table.rows[0][1] == {
        "id": "1", "text": 'A <e1>cup</e1> of <e2>tea</e2>, "she" said.',
        "relation": "Content-Container(e2,e1)", "comment": "odd",
    }  # fmt: skip
    blind = tmp_path / "test.txt"
    blind.write_text('1\t"<e1>a</e1> <e2>b</e2>"\n2\t"<e1>a</e1> <e2>c</e2>"\n')
    assert read_file(blind).columns == ("id", "text")
    with pytest.raises(DataError, match="has no column `relation`"):
        load_splits(task_of(blind), 0)


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ('1\t"<e1>a</e1> <e2>b</e2>"\nComment:\n\n', r"1 sentence without a relation \(line 1\)"),
        ('1\t"<e1>a</e1> <e2>b</e2>"\nR(e1,e2)\nOther\n\n', r"sentence with 2 relations \(line 1"),
        ("Other\n\n", r"1 line without a number, a tab and a sentence \(line 1\)"),
    ],
)
def test_a_sentence_that_cannot_be_used_is_named(tmp_path, lines, told):
    path = tmp_path / "a.txt"
    path.write_text(lines + '2\t"<e1>a</e1> <e2>b</e2>"\nOther\nComment:\n')
    with pytest.raises(DataError, match=told):
        load_splits(task_of(path), 0)


def test_directions_are_read_in_other_spellings():
    for label in ("Made(e2,e1)", "Made(e2, e1)", "Made (E2,E1)", "Made( e2 , e1 ) "):
        assert split_direction(label) == ("Made", "e2,e1")
    assert split_direction("Made(e1,e1)") == ("Made(e1,e1)", "")


def test_ends_at_the_last_character_are_noted():
    rows = [row_of("<e1>Ad</e1>a lives in <e2>Londo</e2>n", n) for n in range(9)]
    (note,) = ends_inside_words(rows)
    assert note.startswith("18 of 18 entities end inside a word")
    assert not list(ends_inside_words([row_of("<e1>Ada</e1> is <e2>爱</e2>达")]))


def test_a_long_text_is_shown_around_its_entities():
    shown_text = shown(row_of(f"{'a ' * 400}<e1>Ada</e1> is <e2>here</e2>{' b' * 400}"))
    assert shown_text.startswith("… ")
    assert shown_text.endswith(" …")
    assert "<e1>Ada</e1> is <e2>here</e2>" in shown_text
    assert len(shown_text) == 304
    assert shown(row_of("<e1>a</e1> <e2>b</e2>")) == "<e1>a</e1> <e2>b</e2>"


def test_relations_are_read_alike(tmp_path):
    spellings = ("Made(e2,e1)", "Made(e2, e1)", "Made (E2,E1)", "Other", "other")
    rows = [
        {"text": f"<e1>a{n}</e1> {n} <e2>b</e2>", "relation": spellings[n % 5]} for n in range(60)
    ]
    path = write_jsonl(tmp_path / "a.jsonl", rows)
    splits, ledger = load_splits(task_of(path), 0)
    assert {row.values["relation"] for row in splits.train} == {"Made(e2,e1)", "Other", "other"}
    assert any("relations that look alike" in note for note in ledger.notes)
    places = [
        {**row, "text": f"a {n}", "head": [0, 1], "tail": [2, 3]} for n, row in enumerate(rows)
    ]
    with pytest.raises(DataError, match=r"or give `--task.data.head head --task.data.tail tail`"):
        load_splits(task_of(write_jsonl(tmp_path / "b.jsonl", places)), 0)


# Rows


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("no marks", "has no marks; write <e1>…</e1> around the first"),
        ("<e1>a</e1> b", "has no <e2>"),
        ("a</e1> <e2>b</e2>", "has no <e1>"),
        ("<e1>a <e2>b</e2>", "has no </e1>"),
        ("<e1>a</e1> <e1>b</e1> <e2>c</e2>", "has <e1> 2 times"),
        ("a</e1>b<e1> <e2>c</e2>", "has </e1> before <e1>"),
        ("<e1>a <e2>b</e1> c</e2>", "<e1> and <e2> overlap"),
        ("<e1>a <e2>b</e2></e1>", "<e1> and <e2> overlap"),
        ("<e1> </e1> <e2>c</e2>", "has nothing inside <e1>"),
        ("<E1>a</E1> <E2>c</E2>", "has no marks; write `<e1>` for `<E1>`"),
        ("[E1]a[/E1] [E2]c[/E2]", "has no marks; write `<e1>` for `[E1]`"),
        ("&lt;e1&gt;a", "has no marks; write `<e1>` for `&lt;e1&gt;`"),
    ],
)
def test_a_wrong_mark_is_named(tmp_path, text, told):
    assert told in read_marks(text, "text")
    path = write_csv(tmp_path / "a.csv", [(text, "r"), ("<e1>a</e1> <e2>b</e2>", "s")],
                     ("text", "relation"))  # fmt: skip
    with pytest.raises(DataError) as caught:
        load_splits(task_of(path), 0)
    assert f"1 of 2 rows cannot be used: 1 text{told if told[0] == ':' else ''}" in str(
        caught.value
    )
    assert told in str(caught.value)
    assert "(line 2)" in str(caught.value)


def test_marks_become_places():
    text = "我在<e2> 北京</e2><e1>大学</e1>。"
    read = read_marks(text, "text")
    assert read == ("我在 北京大学。", (5, 7), (3, 5))
    values = dict(zip(("text", "head", "tail"), read, strict=True))
    assert marked(Row(1, values)) == "我在 <e2>北京</e2><e1>大学</e1>。"


TEXT = "Café 😀 Ada lives in Zürich"


@pytest.mark.parametrize(
    ("head", "tail", "told"),
    [
        ([7, 10], [20, 26], None),
        ('{"start": 7, "end": 10, "text": "Ada"}', {"start": 20, "end": 26}, None),
        ([11, 14], {"start": 24, "end": 31, "text": "Zürich"}, "tail counts bytes, not characters"),
        ({"start": 8, "end": 11, "text": "Ada"}, [20, 26], "head counts UTF-16 units, not"),
        ({"start": 7, "end": 9, "text": "Ada"}, [20, 26], "head ends at the last character; give"),
        ({"start": 0, "end": 3, "text": "Ada"}, [20, 26],
         "head has 0 to 3, which is `Caf` in the text, not `Ada`; it is at 7 to 10"),
        ([7, 10], [20, 99], "tail has 20 to 99, outside the text of 26 characters"),
        ([7, 10], [21, 27], "outside the text of 26 characters; do the places count bytes?"),
        ([10, 7], [20, 26], "head has 10 to 7, whose start is after its end"),
        ({"begin": 7, "end": 10}, [20, 26], "without `start`"),
        ([7, 7], [20, 26], "head has the empty span 7 to 7"),
        ([4, 5], [20, 26], "where the text has only white space"),
        ([7, 21], [20, 26], "head 7 to 21 and tail 20 to 26 overlap"),
        ([7.0, 10], [20, 26], "where start and end are not whole numbers"),
        ("here", [20, 26], "head has 'here', not a start and an end"),
        (None, [20, 26], "empty head"),
    ],
)  # fmt: skip
def test_places_in_a_text(head, tail, told):
    read = read_in_text(TEXT, head, tail, ("text", "head", "tail"))
    if told:
        assert told in read
    else:
        assert read == (TEXT, (7, 10), (20, 26))


def test_places_in_words():
    names = ("tokens", "head", "tail")
    words = ["Ada", "lives", "in", "New", "York", "."]
    assert read_in_words(words, [0, 1], [3, 5], names) == (
        "Ada lives in New York .", (0, 3), (13, 21),
    )  # fmt: skip
    assert read_in_words([*"我在北京"], [0, 1], [2, 4], names) == ("我在北京", (0, 1), (2, 4))
    wrong = {"start": 3, "end": 4, "text": "New York"}
    assert (
        read_in_words(words, [0, 1], wrong, names) == "tail is the words `New`, and not `New York`"
    )
    assert "outside the text of 6 words" in read_in_words(words, [0, 1], [3, 9], names)
    assert "overlap" in read_in_words(words, [3, 5], [4, 6], names)


def pair_rows(count: int) -> list[dict]:
    """Rows of words with numbered entities and two pairs, as CoNLL04 has them."""
    rng, rows = random.Random(1), []
    for number in range(count):
        text, relation = sentence(rng, number)
        words = text.replace("<e1>", "").replace("</e1>", "").replace("<e2>", "")
        words = words.replace("</e2>", "").split()
        entities = [{"type": "X", "start": place, "end": place + 1} for place in (3, 5)]
        pairs = [{"type": relation, "head": 0, "tail": 1},
                 {"type": "Other", "head": 1, "tail": 0}]  # fmt: skip
        rows.append({"tokens": words, "entities": entities, "relations": pairs})
    return rows


PAIRS = {"tokens": "tokens", "entities": "entities", "pairs": "relations"}


def test_each_pair_of_a_text_is_a_row_and_its_text_stays_in_one_split(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", [*pair_rows(60), {**pair_rows(1)[0], "relations": []}])
    splits, ledger = load_splits(task_of(path, **PAIRS), 0)
    rows = [row for part in splits.named().values() for row in part]
    assert len(rows) == 120
    assert Counter(row.number for row in rows) == dict.fromkeys(range(1, 61), 2)
    texts = [{row.values["text"] for row in part} for part in splits.named().values()]
    assert sum(map(len, texts)) == len(set.union(*texts))
    assert any("1 row of" in note and "without a pair" in note for note in ledger.notes)


@pytest.mark.parametrize(
    ("row", "told"),
    [
        ({"relations": [{"head": 0, "tail": 2, "type": "r"}]},
         "tail in relations is 2, and entities has 2 entities"),
        ({"relations": [[0, 1]]}, "relations has [0, 1], not a head, a tail and a relation"),
        ({"relations": [{"head": 0, "tail": 1}]}, "empty relation"),
        ({"relations": [{"head": [0, 1], "tail": 1, "type": "r"}]},
         "head in relations has [0, 1], not the number of an entity"),
        ({"tokens": "a b"}, "tokens is a text, not a list of words"),
    ],
)  # fmt: skip
def test_a_wrong_pair_is_named(tmp_path, row, told):
    rows = [*pair_rows(3), {**pair_rows(1)[0], **row}]
    with pytest.raises(DataError) as caught:
        load_splits(task_of(write_jsonl(tmp_path / "a.jsonl", rows), **PAIRS), 0)
    assert told in str(caught.value)
    assert "4)" in str(caught.value)


def test_columns_that_do_not_fit_are_refused():
    for fields, told in (
        ({"head": "h"}, "give both, or neither"),
        ({"pairs": "p", "head": "h", "tail": "t"}, "leave those two out"),
        ({"tokens": "t"}, "`tokens` needs `head` and `tail`, or `pairs`"),
    ):
        with pytest.raises(ValueError, match=told):
            pk.MarkedTexts(path="a", **fields)


def test_a_relation_that_training_lacks_is_named(tmp_path):
    for name, relations in (("train", "ab" * 10), ("validation", "ab"), ("test", "ac")):
        rows = [(f"{name} {n} <e1>x</e1> <e2>y</e2>", of) for n, of in enumerate(relations)]
        write_csv(tmp_path / f"{name}.csv", rows, ("text", "relation"))
    with pytest.raises(DataError, match=r"test split has the relation `c` \(first in row 3\)"):
        load_splits(task_of(tmp_path), 0)


def test_a_likely_name_of_no_relation_is_noted(tmp_path):
    rows = [(f"{n} <e1>x</e1> <e2>y</e2>", ("born_in", "no_relation")[n % 2]) for n in range(120)]
    path = write_csv(tmp_path / "a.csv", rows, ("text", "relation"))
    _, ledger = load_splits(task_of(path), 0)
    assert any('`--task.data.no-relation "no_relation"`'.strip("`") in n for n in ledger.notes)
    _, ledger = load_splits(task_of(path, no_relation="no_relation"), 0)
    assert not ledger.notes


# Encoding


def opened(name) -> object:
    base = Base(name_or_path=str(name), added_tokens=MARKERS)
    return open_base(base, one_output=True)


def row_of(text: str, number: int = 1) -> Row:
    read = read_marks(text, "text")
    assert not isinstance(read, str)
    return Row(number, dict(zip(("text", "head", "tail"), read, strict=True)))


def encoded(rows, tokenizer, max_length=64, **settings):
    options = {"prefix": "", "read": MARKERS[::2], **settings}
    return encode_marked(rows, np.arange(len(rows)), tokenizer, max_length=max_length, **options)


@pytest.mark.parametrize("name", ["minilm", "bert", "llama"])
def test_each_example_has_each_marker_once_whatever_its_text_has(name, bases):
    tokenizer = opened(
        find_packaged("packaged:minilm-l6", MODELS)[1] if name == "minilm" else bases[name]
    ).tokenizer
    ids = tokenizer.convert_tokens_to_ids(list(MARKERS))
    rng = random.Random(0)
    texts = [
        "a [E1] film <e1>[E2]</e1> [/E1] of <e2>[/E2] story</e2> [E1]",
        "[<e1>E1</e1>] [E<e2>2</e2>]",
        "<e2>好</e2><e1>坏</e1>",
        "<e1>a</e1><e2>b</e2>",
    ]
    for _ in range(60):
        words = [rng.choice(FILLER) for _ in range(rng.randint(4, 90))]
        first, second = sorted(rng.sample(range(len(words)), 2))
        for place, mark in zip((first, second), rng.sample(("e1", "e2"), 2), strict=True):
            words[place] = f"<{mark}>{words[place]}</{mark}>"
        texts.append(" ".join(words))
    rows = [row_of(text, number) for number, text in enumerate(texts)]
    examples = encoded(rows, tokenizer, max_length=40)
    assert examples.truncated > 0
    assert examples.too_long > 0
    assert len(examples) == len(examples.rows) == len(rows) - examples.too_long
    for number, row in enumerate(examples.rows):
        tokens = examples.input_ids[number].tolist()
        assert len(tokens) <= 40
        assert [tokens.count(mark) for mark in ids] == [1, 1, 1, 1]
        assert examples.targets[number] == row.number
        places = examples.read_at[number]
        assert places.shape == (1, 2)
        assert [tokens[place] for place in places[0]] == [ids[0], ids[2]]
        for begin, end in ((0, 1), (2, 3)):
            inside = tokens[tokens.index(ids[begin]) + 1 : tokens.index(ids[end])]
            span = row.values["head" if begin == 0 else "tail"]
            found = tokenizer.decode(inside).replace(" ", "").casefold()
            assert found == row.values["text"][slice(*span)].replace(" ", "").casefold() or (
                tokenizer.unk_token.replace(" ", "").casefold() in found
            )
    assert encoded(rows, tokenizer, read=()).read_at is None


def test_a_text_is_cut_around_both_entities():
    marks = [100, 101, 102, 103]
    tokens = [1, 2, 3, 4, 100, 5, 101, 6, 102, 7, 103, 8, 9, 10, 11]
    assert cut_around(tokens, marks, 15) == tokens
    assert cut_around(tokens, marks, 11) == tokens[2:13]
    assert cut_around(tokens, marks, 7) == tokens[4:11]
    assert cut_around(tokens, marks, 6) is None
    assert cut_around(tokens[3:], marks, 11) == tokens[3:14]
    assert cut_around(tokens[:12], marks, 11) == tokens[1:12]


def test_a_space_before_an_entity_is_inside_its_marker():
    row = row_of("of <e1>the film</e1> in<e2>to</e2> it")
    assert marked_text(row) == "of[E1] the film[/E1] in[E2]to[/E2] it"
    assert marked_text(row_of("<e1>a</e1> <e2>b</e2>")) == "[E1]a[/E1][E2] b[/E2]"


def test_a_prefix_stays_when_a_text_is_cut(bases):
    tokenizer = opened(bases["bert"]).tokenizer
    rows = [row_of("the a of in it <e1>film</e1> was <e2>story</e2> of in it the a of")]
    tokens = encoded(rows, tokenizer, max_length=12, prefix="very: ").input_ids[0].tolist()
    assert tokenizer.decode(tokens[:2]) == "[CLS] very"
    assert len(tokens) == 12


# Scores


def by_the_perl_scorer(expected: list[str], predicted: list[str], no_relation: str) -> float:
    """Official F1 as semeval2010_task8_scorer-v1.2.pl computes it: a confusion matrix of relations,
    and beside it the rows in the wrong direction. Relations that the key lacks count as none.
    """
    matrix: Counter[tuple[str, str]] = Counter()
    turned: Counter[str] = Counter()
    key = {name.split("(")[0] for name in expected}
    for wanted, found in zip(expected, predicted, strict=True):
        one, other = wanted.split("(")[0], found.split("(")[0]
        other = other if other in key else no_relation
        if one == other and wanted != found:
            turned[one] += 1
        else:
            matrix[one, other] += 1
    names = sorted(key | {no_relation})
    f1 = []
    for name in names:
        if name == no_relation or name not in key:
            continue
        right = matrix[name, name]
        answered = sum(matrix[other, name] for other in names) + turned[name]
        real = sum(matrix[name, other] for other in names) + turned[name]
        precision = right / answered if answered else 0.0
        recall = right / real if real else 0.0
        f1.append(2 * precision * recall / (precision + recall) if right else 0.0)
    return sum(f1) / len(f1) if f1 else 0.0


def scored(labels, expected, predicted, no_relation="Other"):
    outputs = np.eye(len(labels), dtype=np.float32)[predicted] * 3
    rows = [row_of(f"{number} <e1>a</e1> <e2>b</e2>", number) for number in range(len(expected))]
    metric = pk.RelationExtraction(data=pk.MarkedTexts(path="a")).metric
    return relation_score(metric, outputs, np.array(expected), rows, labels, no_relation)


@pytest.mark.parametrize("labels", [LABELS, ("born_in", "works_for", "Other"), ("A(e1,e2)", "B")])
def test_the_official_score_is_that_of_the_perl_scorer(labels):
    rng = random.Random(len(labels))
    for _ in range(40):
        count = rng.randint(1, 60)
        expected, predicted = (rng.choices(range(len(labels)), k=count) for _ in range(2))
        predicted = [
            e if rng.random() < 0.4 else p for e, p in zip(expected, predicted, strict=True)
        ]
        metrics = scored(labels, expected, predicted).metrics
        names = [[labels[label] for label in of] for of in (expected, predicted)]
        assert metrics["official_f1"] == pytest.approx(by_the_perl_scorer(*names, "Other"))
        right = sum(e == p != "Other" for e, p in zip(*names, strict=True))
        key = {name.split("(")[0] for name in names[0]} - {"Other"}
        total = sum(name.split("(")[0] in key for of in names for name in of)
        assert metrics["micro_f1"] == pytest.approx(2 * right / total if total else 0.0)


def test_a_score_by_hand():
    """Made: two right of three expected and four answered, one of them turned. Part: one right of
    two expected and one answered.
    """
    expected = [0, 0, 1, 2, 3, 4, 4]
    predicted = [0, 1, 1, 2, 4, 0, 4]
    metrics = scored(LABELS, expected, predicted).metrics
    made, part = 2 * 2 / (3 + 4), 2 * 1 / (2 + 1)
    assert metrics["official_f1"] == pytest.approx((made + part) / 2)
    assert metrics["micro_f1"] == pytest.approx(2 * 3 / (5 + 5))
    assert metrics["accuracy"] == pytest.approx(4 / 7)


def test_every_score_has_parts_an_interval_and_a_place_in_the_tables():
    rng = np.random.default_rng(0)
    expected = rng.integers(0, 5, 80)
    predicted = np.where(rng.random(80) < 0.6, expected, rng.integers(0, 5, 80))
    score = scored(LABELS, expected.tolist(), predicted.tolist())
    assert tuple(score.metrics) == ("official_f1", "micro_f1", "macro_f1", "accuracy")
    for name, parts in score.parts.items():
        if name != "loss":
            assert METRICS[name].statistic(parts.table.sum(axis=0)) == score.metrics[name]
            low, high = score.intervals[name]
            assert low < score.metrics[name] < high
    relations, labels = score.tables[:2]
    assert [row[0] for row in relations.rows] == ["Made", "Part"]
    assert np.mean([row[3] for row in relations.rows]) == pytest.approx(
        score.metrics["official_f1"]
    )
    turned = sum(row[-1] for row in relations.rows)
    (matrix,) = score.matrices
    assert matrix.labels == ("Made", "Part", "Other")
    assert matrix.columns == (*matrix.labels, "reversed")
    assert sum(map(sum, matrix.counts)) == 80
    assert sum(row[-1] for row in matrix.counts) == turned > 0
    assert [row[0] for row in labels.rows] == list(LABELS)
    assert all("<e1>a</e1>" in mistake.text for mistake in score.mistakes)
    svg = confusion.picture(matrix.labels, matrix.counts, matrix.columns)
    assert "reversed" in svg
    assert confusion.worst_pairs(matrix.labels, matrix.counts, matrix.columns)


def test_directions_and_relations_of_labels():
    assert split_direction("Cause-Effect(e1,e2)") == ("Cause-Effect", "e1,e2")
    assert split_direction("Cause-Effect (e2, e1)") == ("Cause-Effect", "e2,e1")
    assert split_direction("f(x)") == ("f(x)", "")
    assert relations_of(LABELS, "Other") == ("Made", "Part")
    relation_of = relation_of_labels(LABELS, "Other")
    assert relation_of.tolist() == [0, 0, 1, 1, -1]
    entries, sizes = official_entries(np.array([0, 0, 4]), np.array([1, 2, 4]), relation_of)
    assert entries.tolist() == [[0, -1], [-1, 0], [0, 1], [-1, -1]]
    assert sizes == (2, 1, 1)
    assert label_counts(*entries.T, 2).toarray().sum() == 4
    assert micro_counts(np.array([0, 4]), np.array([0, 4]), relation_of).tolist() == [
        [1, 1, 1], [0, 0, 0],
    ]  # fmt: skip


# Runs


def recipe_of(task, base, method=None, **training) -> pk.Recipe:
    settings = {"learning_rate": 1e-2, "num_epochs": 8, "batch_size": 16, **training}
    method = method or pk.LoRA(r=4, lora_alpha=8)
    return pk.Recipe(
        base=pk.Base(name_or_path=str(base)), task=task, method=method,
        training=pk.Training(**settings), name="relations",
    )  # fmt: skip


@pytest.fixture(scope="module")
def trained(semeval, bases, tmp_path_factory):
    recipe = recipe_of(task_of(semeval), bases["bert"])
    return run(recipe, str(tmp_path_factory.mktemp("run") / "run"))


def test_a_run_learns_relations_with_their_directions(trained):
    test, training = trained.record.test, trained.record.training
    assert test.after["official_f1"] > 0.9
    assert training.metric == "official_f1"
    assert test.baseline["majority"]["official_f1"] < 0.2
    assert trained.record.probes.max_difference < 1e-5
    assert trained.record.ledger.stratum == "relation"
    html = (trained.folder / "receipt.html").read_text()
    assert "Confused relations" in html
    assert "Per relation, with its direction" in html


def test_only_the_markers_rows_are_saved_and_stay(trained, tmp_path):
    rows = load_file(trained.folder / "adapter/added_tokens.safetensors")
    assert {name: tuple(tensor.shape) for name, tensor in rows.items()} == {"input": (4, 64)}
    assert not [one for one in verify(str(trained.folder)).all if one.result == "wrong"]
    adapter = pk.load(str(trained.folder))
    text = "the a film <e1>word5</e1> warm <e2>word6</e2> of in it"
    (before,) = adapter.predict([text])
    merge_to(str(trained.folder), str(tmp_path / "merged"))
    embedding = next(
        tensor
        for name, tensor in load_file(tmp_path / "merged/model.safetensors").items()
        if name.endswith("word_embeddings.weight")
    )
    ids = adapter.tokenizer.convert_tokens_to_ids(list(MARKERS))
    assert np.array_equal(embedding[ids[0] : ids[3] + 1], rows["input"])
    assert before.label == "Made(e1,e2)"


def test_answers_for_texts_and_files(trained, tmp_path, capsys):
    adapter = pk.load(str(trained.folder))
    text = "the word3 bright word4 of"
    answers = adapter.predict([
        "the <e1>word3</e1> bright <e2>word4</e2> of",
        {"text": text, "head": [4, 9], "tail": [17, 22]},
        {"tokens": text.split(), "head": [1, 2], "tail": [3, 4]},
    ])  # fmt: skip
    assert len({answer.label for answer in answers}) == 1
    assert answers[0].label == "Part(e1,e2)"
    assert len({round(answer.probability, 5) for answer in answers}) == 1
    outside = {"text": text, "head": [4, 99], "tail": [17, 22]}
    for wrong, told in (("no marks", "has no marks"), (3, "is int, not"), (outside, "outside")):
        with pytest.raises(RecipeError, match=told):
            adapter.predict([wrong])
    long = f"<e1>word3</e1> {'of ' * 400} <e2>word4</e2>"
    with pytest.raises(DataError, match=r"row 2: its entities are too far apart for 64 tokens"):
        adapter.predict(["<e1>a</e1> <e2>b</e2>", long])
    row = ("the a film <e1>word5</e1> dark <e2>word6</e2> of in it",)
    marks = write_csv(tmp_path / "in.csv", [row], ("text",))
    command_line(["predict", str(trained.folder), "--file", str(marks), "--out",
                  str(tmp_path / "out.csv")])  # fmt: skip
    with (tmp_path / "out.csv").open() as file:
        (answer,) = csv.DictReader(file)
    assert answer["predicted"] == "Part(e2,e1)"
    command_line(
        [
            "predict",
            str(trained.folder),
            "--text",
            "the a film <e1>word5</e1> warm <e2>word6</e2> of in it",
        ]
    )
    assert "Made(e1,e2)" in capsys.readouterr().out


def test_a_file_of_pairs_gets_a_line_for_each_pair(bases, tmp_path, capsys):
    path = write_jsonl(tmp_path / "a.jsonl", pair_rows(60))
    done = run(recipe_of(task_of(path, **PAIRS), bases["bert"], max_steps=2), str(tmp_path / "run"))
    rows = [{name: row[name] for name in ("tokens", "entities")} for row in pair_rows(2)]
    for row in rows:
        row["relations"] = [{"head": 0, "tail": 1}, {"head": 1, "tail": 0}]
    rows.append({**rows[0], "relations": []})
    asked = write_jsonl(tmp_path / "in.jsonl", rows)
    out = tmp_path / "out.csv"
    command_line(["predict", str(done.folder), "--file", str(asked), "--out", str(out)])
    told = " ".join(capsys.readouterr().err.split())
    assert f"left out 1 row of `{asked}` without a pair in `relations`" in told
    with out.open() as file:
        answers = list(csv.DictReader(file))
    assert [json.loads(row["relations"])["head"] for row in answers] == [0, 1, 0, 1]
    assert all(row["predicted"] in LABELS for row in answers)


def test_a_task_of_places_answers_texts_with_marks_too():
    task = task_of("a", head="head", tail="tail")
    values = {"text": "<e1>Ada</e1> in <e2>London</e2>"}
    read = task.read_input(values, Table("a", ("text",), ((1, values),)))
    assert read == {"text": "Ada in London", "head": (0, 3), "tail": (7, 13)}
    with pytest.raises(DataError, match="has no column `head`, `tail`"):
        task.read_input({"text": "Ada in London"}, Table("a", ("text",), ((1, {}),)))
    read = task.read_input({"text": "<e1>Ada</e1> in <e2>London"}, Table("a", ("text",), ()))
    assert read == "text has no </e2>"


def test_check_shows_the_markers(semeval, bases, capsys, tmp_path):
    recipe = tmp_path / "recipe.json"
    recipe.write_text(recipe_of(task_of(semeval), bases["bert"]).to_json())
    command_line(["check", str(recipe)])
    assert "[/E1]" in capsys.readouterr().out


def test_pairs_too_far_apart_are_left_out_and_counted(bases, tmp_path):
    rows = sentences(80)
    far = [(text.replace(" <e2>", f" {'of ' * 60}<e2>"), of) for text, of in rows[:7]]
    path = write_csv(tmp_path / "a.csv", [*rows[7:], *far], ("text", "relation"))
    prepared = prepare(recipe_of(task_of(path, max_length=32), bases["bert"]))
    assert sum(split.too_long for split in prepared.ledger.splits.values()) == 7
    everywhere = [(text.replace(" <e2>", f" {'of ' * 60}<e2>"), of) for text, of in rows]
    path = write_csv(tmp_path / "b.csv", everywhere, ("text", "relation"))
    with pytest.raises(
        DataError, match="no row of `train`, `validation`, `test` fits `max_length`"
    ):
        prepare(recipe_of(task_of(path, max_length=32), bases["bert"]))


@pytest.mark.parametrize(
    ("method", "pooling", "base"),
    [
        (pk.FullFineTuning(), "markers", "bert"),
        (pk.HeadOnly(), "markers", "bert"),
        (pk.PrefixTuning(num_virtual_tokens=4), "markers", "bert"),
        (pk.LoRA(r=4), "markers", "llama"),
        (pk.PrefixTuning(num_virtual_tokens=4), "markers", "llama"),
        (pk.BitFit(), "head", "bert"),
        (pk.BottleneckAdapter(reduction_factor=8), "mean", "bert"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.kind(),
)
def test_markers_are_trained_with_every_method_pooling_and_kind_of_base(
    method, pooling, base, semeval, bases, tmp_path
):
    recipe = recipe_of(
        task_of(semeval, pooling=pooling), bases[base], method, max_steps=4, learning_rate=1e-3
    )
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.probes.max_difference < 1e-5
    assert not done.record.self_check.notes
    saved = done.folder / "adapter/added_tokens.safetensors"
    if method.trains_base_weights:
        assert not saved.exists()
    else:
        assert load_file(saved)["input"].shape == (4, 64)
    head = pk.load(str(done.folder)).record.head
    ends = ("[/E1]", "[/E2]") if base == "llama" else ("[E1]", "[E2]")
    assert head.markers == (ends if pooling == "markers" else ())


def test_probabilities_are_calibrated_on_validation(trained):
    record = json.loads((trained.folder / "adapter/peftkit.json").read_text())
    (temperature,) = record["decision"]["numbers"]["temperature"]
    assert temperature > 0
    head = pk.load(str(trained.folder)).record.head
    own = pk.RelationExtraction(data=pk.MarkedTexts(path="a"))
    kept = np.array([[4.0, 0, 0, 0, 0]], np.float32)
    rows = (row_of("<e1>a</e1> <e2>b</e2>"),)
    (plain,), (calm,) = (
        own.answers(kept, rows, head, Decision({"temperature": (t,)})) for t in (1.0, 4.0)
    )
    assert plain.probability > calm.probability


def test_a_base_that_knows_a_marker_is_refused(bases, semeval):
    recipe = recipe_of(task_of(semeval), bases["bert"])
    known = recipe.base.with_(added_tokens=("[E1]",))
    assert prepare(recipe.with_(base=known)).base.added_ids
    with pytest.raises(PeftkitError, match="is in the vocabulary already"):
        open_base(recipe.base.with_(added_tokens=("[CLS]",)))
