"""Token classification: files of tagged words, spans of characters, schemes of tags, entities
scored as nervaluate does, and answers with places in the text.
"""

from __future__ import annotations

import csv
import json
import random
import runpy

import numpy as np
import pytest

import peftkit as pk
from peftkit.adapters.verifying import verify
from peftkit.cli.main import command_line
from peftkit.data.reading import read_file
from peftkit.data.rows import Row
from peftkit.data.splits import load_splits
from peftkit.deploy.merging.merge import merge_to
from peftkit.errors import PeftkitError
from peftkit.metrics.entities import entities
from peftkit.metrics.entity_schemes import matched, scheme_counts
from peftkit.metrics.strict_entities import METRICS, entity_counts
from peftkit.run import run
from peftkit.stages.preparing import prepare
from peftkit.tasks.encoding.token_windows import encode_windows
from peftkit.tasks.reading.tag_schemes import faults, read_tags, scheme_of, write_tags
from peftkit.tasks.reading.tagged_words import read_spans
from peftkit.tasks.reading.text_words import joined, words_of
from tests.conftest import write_jsonl

WORDS = ("the", "a", "film", "story", "scene", "of", "in", "was")
NAMES = {"GOOD": ("bright", "warm"), "BAD": ("dark", "cold")}


def sentence(rng: random.Random) -> tuple[list[str], list[str]]:
    """Words with tags in BIO; entities have one word or two."""
    words, tags = [], []
    for _ in range(rng.randint(3, 9)):
        if rng.random() < 0.4:
            kind = rng.choice(list(NAMES))
            name = NAMES[kind][: rng.randint(1, 2)]
            words += name
            tags += [f"B-{kind}", f"I-{kind}"][: len(name)]
        else:
            words.append(rng.choice(WORDS))
            tags.append("O")
    return words, tags


def write_conll(path, sentences, line="{word}\t{tag}", end="\t"):
    blocks = ["\n".join(line.format(word=w, tag=t) for w, t in zip(*of, strict=True))
              for of in sentences]  # fmt: skip
    path.write_text(f"\n{end}\n".join(blocks) + "\n", encoding="utf-8")
    return path


# Files


def test_a_file_of_tagged_words_has_a_row_for_each_sentence(tmp_path):
    path = tmp_path / "a.conll"
    path.write_bytes(
        b"# sent_id = 1\n-DOCSTART- -X- O O\n\nEU NNP B-NP B-ORG\r\n# NN B-NP O\n  \n"
        b"# text = rejects\nrejects  VBZ\tB-VP O\n\n-DOCSTART- -X- O O\n\nGerman JJ I-NP B-MISC"
    )
    table = read_file(path)
    assert table.columns == ("tokens", "column_2", "column_3", "labels", "document")
    assert [number for number, _ in table.rows] == [4, 8, 12]
    first, second, third = (values for _, values in table.rows)
    assert first["tokens"] == ["EU", "#"]
    assert first["column_2"] == ["NNP", "NN"]
    assert second["labels"] == ["O"]
    assert first["document"] == second["document"] != third["document"]
    assert table.unit == "line"


def test_a_line_with_a_tab_alone_ends_a_sentence_and_a_word_may_hold_a_space(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("New York\tB-LOC\n\t\nit\u2028\tO\n#x\tO\n", encoding="utf-8")
    rows = [values for _, values in read_file(path).rows]
    assert [row["tokens"] for row in rows] == [["New York"], ["it\u2028", "#x"]]


def test_a_table_with_a_header_is_no_file_of_tagged_words(tmp_path):
    path = tmp_path / "a.tsv"
    path.write_text("text\tlabel\nthe film\tgood\n\nthe story\tbad\n")
    assert read_file(path).columns == ("text", "label")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("a\tO\nb\n\nc\tO\nd\tO\n", r"1 line with 1 column, not 2 \(line 2\)"),
        ("a\tO\nb\t\n\nc\tO\n", r"1 line without a tag \(line 2\)"),
        ("a\tO\nb\tO\n\n\tO\n", r"1 line without a word \(line 4\)"),
        ("a O\nb x y\n\nc O\nd O\n", r"1 line with 3 columns, not 2 \(line 2\)"),
        ("\n\n", "has no words"),
    ],
)
def test_a_line_that_cannot_be_used_is_named(tmp_path, text, told):
    path = tmp_path / "a.conll"
    path.write_text(text)
    with pytest.raises(PeftkitError, match=told):
        load_splits(pk.TokenClassification(data=pk.TaggedWords(path=str(path))), 0)


def test_sentences_of_a_document_stay_in_one_split(tmp_path):
    rng = random.Random(0)
    documents = [[sentence(rng) for _ in range(4)] for _ in range(12)]
    path = write_conll(
        tmp_path / "a.conll",
        [of for document in documents for of in ((["-DOCSTART-"], ["O"]), *document)], end="",
    )  # fmt: skip
    task = pk.TokenClassification(data=pk.TaggedWords(path=str(path)))
    splits, ledger = load_splits(task, 0)
    of_split = [{row.group for row in rows} for rows in splits.named().values()]
    assert all(group.startswith("a.conll document ") for group in of_split[0])
    assert not of_split[0] & of_split[1]
    assert not of_split[1] & of_split[2]
    assert ledger.notes == ()


# Texts with spans


def test_words_of_a_text_are_found_with_their_places():
    text = "Ada's in (U.S.)我在北京，ok 👍🏽! हिन्दी\u200b."
    words = [text[start:end] for start, end in words_of(text)]
    assert words == ["Ada", "'", "s", "in", "(", "U", ".", "S", ".", ")", *"我在北京，", "ok",
                     "👍", "🏽", "!", "हिन्दी", "."]  # fmt: skip
    other = "@ada's e-mail: #x, (U.S)"
    assert [other[start:end] for start, end in words_of(other, whole_words=True)] == [
        "@ada", "'s", "e-mail", ":", "#x", ",", "(", "U.S", ")",
    ]  # fmt: skip
    assert joined([*"我在", "NASA", "工", "。"]) == (
        "我在 NASA 工。", [(0, 1), (1, 2), (3, 7), (8, 9), (9, 10)],
    )  # fmt: skip


def test_spans_become_tags_of_whole_words():
    text = "我在北京的NASA工作"
    spans = [{"start": 2, "end": 4, "label": "LOC"}, [6, 9, "ORG"]]
    read = read_spans(text, spans, ("text", "spans"), {})
    assert read["labels"] == ["O", "O", "B-LOC", "I-LOC", "O", "B-ORG", "O", "O"]
    assert read["snapped"] == 1
    assert [text[start:end] for start, end in read["spans"]] == read["tokens"]


@pytest.mark.parametrize(
    ("spans", "told"),
    [
        ([[3, 99, "X"]], "has 3 to 99, outside the text of 14 characters"),
        ([[-1, 2, "X"]], "has -1 to 2; places count from 0"),
        ([[5, 3, "X"]], "has 5 to 3, whose start is after its end"),
        ([[3, 3, "X"]], "has the empty span 3 to 3"),
        ([[0, 5, "X"], [4, 8, "Y"]], "has 0 to 5 .`X`. and 4 to 8 .`Y`., which overlap"),
        ([[0, 3, "X"], [0, 3, "X"]], "has 0 to 3 .`X`. twice"),
        ([[0, 2, "X"], [2, 3, "Y"]], "has two entities in the word `the`: `x` and `y`"),
        ([[3, 4, "X"]], "has 3 to 4, which holds no word"),
        ([[0, "3", "X"]], "has the end '3', a text, not a whole number"),
        ([[1e30, 3, "X"]], "has the start 1e.30, a float, not a whole number"),
        ([[0, 10**30, "X"]], f"has 0 to {10**30}, outside the text of 14 characters"),
        ([[True, 3, "X"]], "has the start True, a truth value, not a whole number"),
        ([{"start": 0, "label": "X"}], "has {'start': 0, 'label': 'X'}, without `end`"),
        ([{"start": 0, "end": 3}], "has 0 to 3 with the label None, not a name"),
        ([[0, 3, "O"]], "has 0 to 3 with the label `O`, which means no entity"),
        ([[0, 3]], "not a start, an end and a label"),
        ("0-3", "spans is str, not a list of spans"),
        ([[0, 3, "Z"]], "spans `Z` is not in label_names"),
    ],
)
def test_a_span_that_cannot_be_used_is_named(tmp_path, spans, told):
    rows = [{"text": f"the film {n}", "spans": [[0, 3, "X"]]} for n in range(20)]
    rows[7] = {"text": "the film was a", "spans": spans}
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    data = pk.TaggedWords(path=str(path), spans="spans", label_names={"X": "x", "Y": "y"})
    with pytest.raises(PeftkitError, match=f"{told}.* .line 8"):
        load_splits(pk.TokenClassification(data=data), 0)


@pytest.mark.parametrize(
    ("start", "end", "told"),
    [
        (6, 12, "counts bytes, not characters, for `北京`"),
        (3, 5, "counts UTF-16 units, not characters, for `北京`"),
        (2, 3, "ends at the last character; give the place after it"),
        (3, 4, "counts from 1 to the last character"),
        (3, 5, "counts characters from 1; give places from 0"),
        (5, 7, "has 5 to 7, which is `作第` in the text, not `北京`"),
        (2, 4, ""),
    ],
)
def test_places_that_do_not_fit_the_text_of_a_span_say_how_they_count(start, end, told):
    text = f"{'👍' if 'UTF' in told else '我'}在北京工作第3天"
    span = {"start": start, "end": end, "label": "LOC", "text": " 北京"}
    read = read_spans(text, [span], ("text", "spans"), {})
    assert told in read if told else read["labels"][2:4] == ["B-LOC", "I-LOC"]


def test_spans_that_mostly_end_inside_words_may_count_bytes(tmp_path):
    rows = [{"text": f"die schöne stadt {n}", "spans": [[12, 18, "x"]]} for n in range(20)]
    task = pk.TokenClassification(
        data=pk.TaggedWords(path=str(write_jsonl(tmp_path / "rows.jsonl", rows)), spans="spans")
    )
    _, ledger = load_splits(task, 0)
    told = "20 spans began or ended inside a word, and became whole words; check that `start` and"
    assert told in " ".join(ledger.notes)


# Mistyped tags


def tagged_file(folder, odd: dict[int, str], header: str = "", tags=("B-PER", "O", "B-LOC")):
    """A CoNLL file of 20 sentences of three words; some lines have another tag."""
    lines = header.splitlines()
    for number in range(20):
        for word, tag in zip(("Ada", "in", f"x{number}"), tags, strict=True):
            lines.append(f"{word}\t{odd.get(len(lines) + 1, tag)}")
        lines.append("")
    path = folder / "a.conll"
    path.write_text("\n".join(lines), encoding="utf-8")
    return pk.TokenClassification(data=pk.TaggedWords(path=str(path)))


@pytest.mark.parametrize(
    ("odd", "told"),
    [
        ({5: "PER"}, r"1 tag lacks the prefix .* `B-LOC`, `B-PER`: `PER` \(1 word, first in line 5 "
                     r"of `.*a.conll`\)[\s\S]*hint: write `B-PER`"),
        ({5: "b-per"}, "`b-per` .1 word, first in line 5 of [\\s\\S]*hint: write `B-PER`"),
        ({6: "o", 10: "o"}, "`o` .2 words, first in line 6 of [\\s\\S]*means no entity, write `O`"),
        ({9: "BPER"}, "`BPER` .1 word[\\s\\S]*hint: did you mean `B-PER`"),
        ({1: "Mark"}, "`Mark` .1 word, first in line 1 [\\s\\S]*remove line 1 if it is a header"),
        ({5: "x", 9: "y"}, "2 tags lack the prefix .*`x` .*, `y` .*line 9 of"),
        ({5: "B-Per"}, r"case only: `PER` \(19 words, first in line 1 of .* and `Per` \(1 word, "
                       r"first in line 5 of"),
    ],
)  # fmt: skip
def test_a_mistyped_tag_is_named_with_its_line(tmp_path, odd, told):
    with pytest.raises(PeftkitError, match=told):
        load_splits(tagged_file(tmp_path, odd), 0)


def test_types_that_differ_in_case_may_be_named(tmp_path):
    task = tagged_file(tmp_path, {5: "B-Per", 9: "B-Per", 13: "B-Per"})
    names = {tag: tag for tag in ("O", "B-PER", "B-Per", "B-LOC")}
    task = task.with_(data=task.data.with_(label_names=names))
    assert "`B-PER: 17 words`, `B-Per: 3 words`" in " ".join(load_splits(task, 0)[1].notes)


def test_tags_of_speech_need_no_prefix(tmp_path):
    task = tagged_file(tmp_path, {5: "S-BAR"}, tags=("NN", "VBZ", "O"))
    load_splits(task, 0)


def test_a_type_with_hardly_an_entity_is_noted_with_its_line(tmp_path):
    for name, odd in (("train", {17: "B-LCO"}), ("valid", {}), ("test", {})):
        task = tagged_file(tmp_path, odd)
        (tmp_path / "rows").mkdir(exist_ok=True)
        text = (tmp_path / "a.conll").read_text().replace("\tB-PER", f"{name}\tB-PER")
        (tmp_path / "rows" / f"{name}.conll").write_text(text)
    task = task.with_(data=task.data.with_(path=str(tmp_path / "rows")))
    _, ledger = load_splits(task, 0)
    told = (
        "1 type has fewer than 3 entities in training, too few to learn: `LCO` (1, first in line "
        f"17 of `{tmp_path / 'rows' / 'train.conll'}`; is it `LOC`?)"
    )
    assert told in " ".join(ledger.notes)
    write_conll(tmp_path / "rows" / "test.conll", [(["a", "b"], ["O", "B-LCP"])])
    told = r"`B-LCP`, which no training row has \(first in line 2 of `.*test.conll`\)"
    with pytest.raises(PeftkitError, match=told):
        load_splits(task, 0)


@pytest.mark.parametrize(
    "header",
    [
        "token\ttag\n",
        "Word\tNER Tag\n\n",
        "# word\tner\n",
        "# made\nword\tlabel\n",
        "#token\ttag\n",
    ],
)
def test_a_header_is_no_word(tmp_path, header):
    splits, ledger = load_splits(tagged_file(tmp_path, {}, header), 0)
    words = {
        word for rows in splits.named().values() for row in rows for word in row.values["tokens"]
    }
    assert words == {"Ada", "in", *(f"x{n}" for n in range(20))}
    named = any("is a header (`" in note for note in ledger.notes)
    assert named == (header.splitlines()[-1 - header.endswith("\n\n")][0] != "#")


def test_a_first_word_whose_tag_others_have_is_no_header(tmp_path):
    task = tagged_file(tmp_path, {}, "Word\tpos\n\n", tags=("pos", "neg", "O"))
    splits, _ = load_splits(task, 0)
    assert any(row.values["tokens"] == ["Word"] for part in splits.named().values() for row in part)


def test_entities_of_each_type_are_counted_in_each_split(tmp_path, capsys):
    task = tagged_file(tmp_path, {})
    _, ledger = load_splits(task, 0)
    assert ledger.strata_title == "entities in labels"
    assert {name: split.strata for name, split in ledger.splits.items()} == {
        "train": {"LOC": 14, "PER": 14}, "validation": {"LOC": 3, "PER": 3},
        "test": {"LOC": 3, "PER": 3},
    }  # fmt: skip
    speech = tagged_file(tmp_path, {}, tags=("NN", "NN", "VBZ"))
    _, ledger = load_splits(speech, 0)
    assert ledger.strata_title == "words in labels"
    assert ledger.splits["train"].strata == {"NN": 28, "VBZ": 14}


# Schemes


FAULTS = {
    "I- after O": ("O I-X O", "O B-X O", "B-X"),
    "I- after another type": ("B-X I-Y I-Y", "B-X B-Y I-Y", "B-X"),
    "E- after O": ("O E-X O", "O S-X O", "S-X"),
    "E- after another type": ("B-X E-Y O", "S-X S-Y O", "S-X"),
    "B- without E-": ("B-X O O", "S-X O O", "S-X"),
    "I- after E-": ("B-X E-X I-X", "B-X E-X S-X", "S-X"),
    "I- without E-": ("B-X I-X O", "B-X E-X O", "S-X"),
}


@pytest.mark.parametrize("kind", FAULTS)
@pytest.mark.parametrize("broken", ["repair", "refuse"])
def test_broken_tags_are_repaired_and_counted_or_refused(tmp_path, kind, broken):
    wrong, right, sound = FAULTS[kind]
    rng = random.Random(0)
    rows = [{"tokens": [rng.choice("abc"), "the", f"x{n}"],
             "labels": ["O", sound.replace("X", "XY"[n % 2]), "O"]}
            for n in range(20)]  # fmt: skip
    rows[4]["labels"] = wrong.split()
    path = write_jsonl(tmp_path / "rows.jsonl", rows)
    task = pk.TokenClassification(data=pk.TaggedWords(path=str(path), broken=broken))
    if broken == "refuse":
        told = rf"1 {kind} \(first in line 5 of `.*rows.jsonl`, word \d: `.*` a.*\)"
        with pytest.raises(PeftkitError, match=told):
            load_splits(task, 0)
        return
    splits, ledger = load_splits(task, 0)
    assert f"{kind} (first in line 5 of `{path}`, word " in "".join(ledger.notes)
    every = [row for part in splits.named().values() for row in part]
    [at] = [place for place, row in enumerate(every) if row.number == 5]
    assert read_tags(every).rows[at] == right.split()


def test_the_scheme_is_that_of_the_whole_file():
    of = {
        "IO": [["X", "X", "O"], ["O"]],
        "IOB1": [["I-X", "I-X", "B-X", "O"], ["O", "I-Y"]],
        "BIO": [["B-X", "I-X", "O"], ["I-X"]],
        "BIOES": [["B-X", "E-X", "S-X", "O"]],
        "BILOU": [["B-X", "I-X", "L-X", "U-X"]],
        "mixed": [["B-X", "O", "X"]],
    }
    for scheme, rows in of.items():
        assert scheme_of(rows) == scheme
    assert scheme_of([["NN", "S-BAR", "DT"]]) == "IO"  # parts of speech
    assert not list(faults(["O", "I-X"], "IOB1"))
    mixed = [Row(n, {"labels": tags}) for n, tags in enumerate([["B-X", "I-X", "X"], ["O", "U-X"]])]
    tags = read_tags(mixed)
    assert tags.rows == (["B-X", "I-X", "I-X"], ["O", "B-X"])
    assert "mixed (first `B-X` in row 0, word 1, `I-X` in row 0, word 2, `X` in row 0," in next(
        tags.notes()
    )
    with pytest.raises(PeftkitError, match="schemes are mixed: first `B-X` in row 0, word 1"):
        tags.refuse_faults()


def test_a_broken_tag_is_named_with_its_line_and_the_tag_before(tmp_path):
    task = tagged_file(tmp_path, {6: "I-PER"})
    path = task.data.path
    shown = f"1 I- after another type (first in line 6 of `{path}`: `I-PER` after `B-LOC`)"
    task = tagged_file(tmp_path, {5: "B-LOC", 6: "I-PER"})
    [note] = [note for note in load_splits(task, 0)[1].notes if "scheme" in note]
    assert note.startswith("1 tag breaks the scheme BIO, and begins a new entity, as in conlleval")
    assert shown in note
    with pytest.raises(PeftkitError, match="1 tag breaks the scheme BIO: 1 I- after another type"):
        load_splits(task.with_(data=task.data.with_(broken="refuse")), 0)


@pytest.mark.parametrize("scheme", ["BIO", "BIOES", "BILOU"])
def test_tags_are_written_as_they_are_read(scheme):
    rng = random.Random(1)
    for _ in range(200):
        found = entities(sentence(rng)[1])
        tags = write_tags(found, 30, scheme)
        assert entities(tags) == found
        assert not list(faults(tags, scheme))


def test_a_tag_that_only_validation_has_needs_its_type_in_training(tmp_path):
    folder = tmp_path / "rows"
    folder.mkdir()
    write_conll(folder / "train.conll", [(["the", f"x{n}"], ["O", "B-X"]) for n in range(9)])
    write_conll(folder / "valid.conll", [(["a", "film", "b"], ["B-X", "I-X", "O"])])
    write_conll(folder / "test.conll", [(["a", "story", "b"], ["B-X", "O", "O"])])
    task = pk.TokenClassification(data=pk.TaggedWords(path=str(folder)))
    load_splits(task, 0)
    write_conll(folder / "test.conll", [(["a", "story", "b"], ["B-Z", "O", "O"])])
    with pytest.raises(PeftkitError, match="the test split has the label `B-Z`, which no training"):
        load_splits(task, 0)


# Scores


def test_entities_are_scored_as_nervaluate_does():
    from nervaluate.evaluator import Evaluator

    rng = random.Random(0)
    tags = ["O", "O", "O", *(f"{prefix}-{kind}" for prefix in "BI" for kind in "XYZ")]
    expected = [rng.choices(tags, k=rng.randint(1, 25)) for _ in range(400)]
    predicted = [[tag if rng.random() < 0.7 else rng.choice(tags) for tag in row]
                 for row in expected]  # fmt: skip
    found = [[entities(row) for row in rows] for rows in (expected, predicted)]
    theirs = Evaluator(expected, predicted, tags=["X", "Y", "Z"], loader="list").evaluate()
    names = {"strict": "strict", "exact": "exact", "type": "ent_type", "partial": "partial"}
    for scheme, name in names.items():
        ours, other = scheme_counts(scheme, zip(*found, strict=True)), theirs["overall"][name]
        wrong = other.partial if scheme == "partial" else other.incorrect
        counts = (ours.correct, ours.incorrect, ours.missed, ours.spurious)
        assert counts == (other.correct, wrong, other.missed, other.spurious)
        assert ours.scores == pytest.approx((other.precision, other.recall, other.f1))
    sums = entity_counts(*found).sum(axis=0)
    strict = theirs["overall"]["strict"]
    values = [float(METRICS[f"strict_{name}"].statistic(sums)) for name in
              ("precision", "recall", "f1")]  # fmt: skip
    assert values == pytest.approx([strict.precision, strict.recall, strict.f1])


def test_each_entity_is_compared_with_the_closest_one():
    expected = [(0, 2, "X"), (3, 5, "Y"), (6, 7, "X"), (9, 10, "Z")]
    predicted = [(0, 2, "Y"), (4, 5, "Y"), (6, 8, "Y"), (11, 12, "X")]
    assert matched(expected, predicted) == [
        ((0, 2, "X"), (0, 2, "Y")), ((3, 5, "Y"), (4, 5, "Y")), ((6, 7, "X"), (6, 8, "Y")),
        ((9, 10, "Z"), None), (None, (11, 12, "X")),
    ]  # fmt: skip


# Runs


def spans_row(rng: random.Random) -> dict:
    """A Chinese text without spaces; `好` and `坏` with the next character are names."""
    text, spans = "", []
    for _ in range(rng.randint(3, 8)):
        if rng.random() < 0.4:
            kind = rng.choice(["好", "坏"])
            spans.append({"start": len(text), "end": len(text) + 2, "label": kind})
            text += kind + {"好": "物", "坏": "流"}[kind]
        else:
            text += rng.choice("的是很一般")
    return {"text": text, "spans": spans}


@pytest.fixture(scope="module")
def finished(bases, tmp_path_factory):
    """Runs on texts with spans, on an encoder; and on a CoNLL file in BIOES, on a decoder."""
    folder, rng = tmp_path_factory.mktemp("entities"), random.Random(0)
    texts = write_jsonl(folder / "texts.jsonl", [spans_row(rng) for _ in range(150)])
    words = [sentence(rng) for _ in range(150)]
    bioes = [(of, write_tags(entities(tags), len(tags), "BIOES")) for of, tags in words]
    training = pk.Training(learning_rate=1e-2, num_epochs=4, batch_size=16)
    recipes = {
        "spans": pk.Recipe(
            base=pk.Base(name_or_path=str(bases["bert"])), name="spans", training=training,
            task=pk.TokenClassification(data=pk.TaggedWords(path=str(texts), spans="spans")),
            method=pk.LoRA(r=4, lora_alpha=8),
        ),
        "conll": pk.Recipe(
            base=pk.Base(name_or_path=str(bases["llama"])), name="conll", training=training,
            task=pk.TokenClassification(
                data=pk.TaggedWords(path=str(write_conll(folder / "words.conll", bioes)))
            ),
            method=pk.LoRA(r=8, lora_alpha=32, target_modules="all-linear"),
        ),
    }  # fmt: skip
    return {name: run(recipe, str(folder / name)) for name, recipe in recipes.items()}


@pytest.mark.parametrize("name", ["spans", "conll"])
def test_it_is_trained_scored_verified_and_merged(finished, name, tmp_path):
    done = finished[name]
    test = done.record.test
    assert test.after["loss"] < test.before["loss"]
    assert verify(str(done.folder)).problems == []
    report = merge_to(str(done.folder), str(tmp_path / "merged"))
    assert report.relative <= report.tolerance
    for metric in ("strict_f1", "strict_precision", "strict_recall", "accuracy"):
        low, high = test.intervals[metric]
        assert low <= test.after[metric] <= high
    titles = [table.title for table in test.tables]
    assert titles == ["Entities per type", "Entities by scheme", "Kinds of errors"]
    assert test.matrices[0].labels[-1] == "none"
    receipt = (done.folder / "receipt.html").read_text()
    assert "Kinds of errors" in receipt
    assert "Confused types" in receipt


def test_a_text_is_answered_with_the_places_of_its_entities(finished, tmp_path, capsys):
    done = finished["spans"]
    assert done.record.test.after["strict_f1"] > 0.9
    adapter = pk.load(str(done.folder))
    text = "的好物是坏流 的"
    [answer] = adapter.predict([text])
    assert [(one.text, one.type) for one in answer.entities] == [("好物", "好"), ("坏流", "坏")]
    assert all(text[one.start : one.end] == one.text for one in answer.entities)
    assert all(0.3 < one.score <= 1 for one in answer.entities)
    command_line(["predict", str(done.folder), "--text", text])
    assert capsys.readouterr().out.startswith("的[好物](好 ")
    command_line(["predict", str(done.folder), "--text", text, "--json"])
    [found] = json.loads(capsys.readouterr().out)["answers"]
    assert found["entities"][0] == {
        "text": "好物", "type": "好", "start": 1, "end": 3, "score": answer.entities[0].score,
    }  # fmt: skip
    file, out = write_jsonl(tmp_path / "in.jsonl", [{"text": text}]), tmp_path / "out.csv"
    command_line(["predict", str(done.folder), "--file", str(file), "--out", str(out)])
    with out.open(encoding="utf-8") as opened:
        [row] = csv.DictReader(opened)
    assert [one["start"] for one in json.loads(row["entities"])] == [1, 4]


def test_words_and_texts_are_answered_alike(finished, tmp_path):
    adapter = pk.load(str(finished["conll"].folder))
    words = ["the", "film", "was", "dark"]
    of_words, of_text = adapter.predict([words, " the film was (dark)!"])
    assert len(of_words.labels) == 4
    assert len(of_text.labels) == 7
    for answer, text in ((of_words, "the film was dark"), (of_text, " the film was (dark)!")):
        assert all(text[one.start : one.end] == one.text for one in answer.entities)
        assert len(entities(answer.labels)) == len(answer.entities) > 0
    rows = write_conll(tmp_path / "in.conll", [(words, ["O"] * 4)])
    out = tmp_path / "out.csv"
    command_line(["predict", str(finished["conll"].folder), "--file", str(rows), "--out", str(out)])
    with out.open(encoding="utf-8") as opened:
        [row] = csv.DictReader(opened)
    assert json.loads(row["predicted"]) == list(of_words.labels)


def test_an_older_recipe_names_the_score_otherwise(finished):
    recipe = pk.Recipe.from_json(finished["conll"].record.recipe.text)
    older = recipe.with_(training=recipe.training.with_(metric="entity_f1"))
    assert older.metric == recipe.metric == "strict_f1"


def test_a_receipt_shows_the_sentences_of_mistakes(finished):
    from peftkit.tasks.token_classification import TokenClassification

    recipe = pk.Recipe.from_json(finished["conll"].record.recipe.text)
    encoded = prepare(recipe).encoded
    task, labels = recipe.task, encoded.head.labels
    assert isinstance(task, TokenClassification)
    kept = np.zeros((len(encoded.test.targets), len(labels)), np.float32)
    kept[np.arange(len(kept)), encoded.test.targets] = 1
    right = task.metrics(kept, encoded.test, encoded.head, None)
    assert right.metrics["strict_f1"] == 1
    assert right.mistakes == ()
    kept[:] = 0
    kept[:, labels.index("O")] = 3
    wrong = task.metrics(kept, encoded.test, encoded.head, None)
    assert wrong.metrics["strict_precision"] == wrong.metrics["strict_f1"] == 0
    assert wrong.mistakes[0].predicted == "none"
    assert "(BAD)" in wrong.mistakes[0].expected or "(GOOD)" in wrong.mistakes[0].expected


# Tokenizers


def metaspace():
    """A tokenizer as XLM-R's: a space begins each word of a list."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    pieces = [("<unk>", 0.0), ("▁", -2.0), ("▁我", -1.0), *((c, -3.0) for c in "我在北京。abc")]
    tokenizer = Tokenizer(models.Unigram(pieces, unk_id=0))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Metaspace(prepend_scheme="always")]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<unk>", unk_token="<unk>", model_max_length=64
    )


def test_a_character_is_read_at_its_own_token_and_not_at_the_space_before_it():
    tokenizer = metaspace()
    words = [*"我在北京。", "abc", "龘", "北"]
    found = encode_windows([Row(1, {"tokens": words})], [[0] * 8], tokenizer, 64, 8)
    ids = found.input_ids[0]
    assert tokenizer.convert_ids_to_tokens(ids.tolist()) == [
        "▁我", *"在北京。", "▁", *"abc", "▁", "<unk>", "北",
    ]  # fmt: skip
    firsts = tokenizer.convert_ids_to_tokens(ids[found.read_at[0][:, 0]].tolist())
    assert firsts == ["▁我", *"在北京。", "a", "<unk>", "北"]
    assert found.unknown_tokens == 1


# Recipes from files


def test_a_recipe_is_written_for_tagged_words_and_for_spans(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    rng = random.Random(0)
    write_conll(tmp_path / "a.conll", [sentence(rng) for _ in range(40)], "{word} NN {tag}", "")
    write_jsonl(tmp_path / "b.jsonl", [{"id": n, **spans_row(rng)} for n in range(40)])
    for file, columns in (
        ("a.conll", {"tokens": "tokens", "labels": "labels"}),
        ("b.jsonl", {"text": "text", "spans": "spans"}),
    ):
        command_line(["new", file[0], "--data", file])
        task = runpy.run_path(f"{file[0]}.py")["recipe"]().task
        assert type(task) is pk.TokenClassification
        assert dict(task.columns) == columns
