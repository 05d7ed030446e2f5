"""The receipt of a run with many labels, long names and scores that are worth nothing."""

from __future__ import annotations

import random
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from html import unescape

import pytest

from peftkit import HeadOnly
from peftkit.bases.devices import device_name
from peftkit.reports import confusion
from peftkit.reports.receipt import FOLD, folded, write_receipt
from peftkit.reports.run_record import Sample
from peftkit.run import run
from peftkit.tasks.score import Matrix, ScoreTable
from peftkit.wording import plural
from tests.test_compare_report import Page, made, made_row, page, table_of

SENTENCE = "a label whose name is a whole sentence and more, number"


@pytest.fixture(scope="module")
def record(make_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return run(make_recipe(HeadOnly(), max_steps=2), str(folder)).record


def with_labels(record, labels):
    """The same run with as many labels, of which some are taken for others."""
    rng = random.Random(len(labels))
    counts = [[20 if i == j else rng.choice((0, 0, 0, 1, 3)) for j in range(len(labels))]
              for i in range(len(labels))]  # fmt: skip
    rows = [(label, 0.5, 0.5, round(0.9 - 0.01 * n, 2), 9) for n, label in enumerate(labels)]
    columns = ("label", "precision", "recall", "f1", "support")
    table = ScoreTable("Per label", columns, tuple(rows))
    matrix = Matrix("Confusion", tuple(labels), tuple(map(tuple, counts)))
    return with_test(record, tables=(table,), matrices=(matrix,))


def with_test(record, **changes):
    """The same run with another test split."""
    return replace(record, test=replace(record.test, **changes))


def written(record, tmp_path):
    write_receipt(tmp_path / "receipt.html", record)
    text = (tmp_path / "receipt.html").read_text(encoding="utf-8")
    assert not Page(text).open
    for picture in re.findall(r"<svg.*?</svg>", text, re.DOTALL):
        ET.fromstring(picture)
    return text


def texts_of(picture):
    return [unescape(text) for text in re.findall(r"<text[^>]*>([^<]*)</text>", picture)]


class TestManyLabels:
    LABELS = [f"intent_{n:02}" for n in range(77)]

    def test_the_worst_stand_first_and_the_others_are_folded(self, record, tmp_path):
        text = written(with_labels(record, self.LABELS), tmp_path)
        shown, folded_away = text.split("<summary>All 77</summary>")
        shown = shown[shown.index("<h2>Per label</h2>") :].replace("<wbr>", "")
        assert "The 20 of 77 with the lowest F1." in shown
        assert re.findall(r"intent_\d\d", shown) == self.LABELS[:56:-1]
        whole = folded_away[: folded_away.index("</details>")].replace("<wbr>", "")
        assert re.findall(r"intent_\d\d", whole) == self.LABELS

    def test_pairs_are_named_and_the_picture_has_no_names(self, record, tmp_path):
        changed = with_labels(record, self.LABELS)
        text = written(changed, tmp_path)
        counts = changed.test.matrices[0].counts
        rows = re.findall(r'<tr><th scope="row">(.*?)</th><td>(.*?)</td><td>(\d+)</td><td>(\d+) %',
                          text[text.index('<table class="pairs">') :])  # fmt: skip
        assert len(rows) == confusion.PAIRS
        for expected, predicted, count, _ in rows:
            i, j = (self.LABELS.index(n.replace("<wbr>", "")) for n in (expected, predicted))
            assert i != j
            assert counts[i][j] == int(count) == 3
        picture = text[text.index('<figure class="matrix"') :].partition("</figure>")[0]
        assert sorted(texts_of(picture)) == ["expected", "predicted"]

    def test_pairs_are_ordered_by_rows_then_share(self):
        counts = [[5, 2, 0], [2, 0, 0], [1, 0, 9]]
        assert confusion.worst_pairs(["a", "b", "c"], counts) == [
            ("b", "a", 2, 1.0), ("a", "b", 2, 2 / 7), ("c", "a", 1, 0.1),
        ]  # fmt: skip
        assert confusion.worst_pairs(["a", "b"], [[3, 0], [0, 3]]) == []


class TestNames:
    @pytest.mark.parametrize("count", [2, 3, 4, 7, 30])
    def test_long_ones_are_told_apart_beside_the_picture(self, record, tmp_path, count):
        labels = [f"{SENTENCE} {n}" for n in range(count)]
        text = written(with_labels(record, labels), tmp_path)
        picture = text[text.index('<figure class="matrix"') :].partition("</figure>")[0]
        names = [text for text in texts_of(picture) if text.startswith("a label")]
        assert len(names) == 2 * count
        assert len(set(names)) == count
        assert max(map(len, names)) <= confusion.NAME_LENGTH
        assert '<table class="pairs">' not in text

    def test_short_ones_lie_level_and_long_ones_slant(self):
        def slanted(labels):
            picture = confusion.picture(labels, [[1] * len(labels)] * len(labels))
            return "rotate(-60" in picture

        assert not slanted(["good", "bad", "neither"])
        assert slanted(["a rather long label", "another long label", "and one more of these"])
        assert slanted(list("abcde"))

    def test_markup_in_them_is_text(self, record, tmp_path):
        labels = [f"<b>{n}</b>" for n in range(40)]
        text = written(with_labels(record, labels), tmp_path)
        assert "<b>1</b>" not in text
        assert "&lt;b&gt;1" in text


def test_a_table_of_another_kind_shows_its_first_rows():
    rows = [(f"row {n}", n) for n in range(FOLD + 1)]
    table = folded(ScoreTable("Other", ("name", "count"), tuple(rows)))
    assert list(table.shown) == rows[:FOLD]
    assert list(table.whole) == rows
    assert folded(ScoreTable("", ("f1",), tuple(rows[:FOLD]))).whole == ()


def test_answers_and_files_are_folded_too(record, tmp_path):
    samples = tuple(Sample(n, f"question {n}", "", "", "") for n in range(FOLD + 1))
    files = tuple(replace(record.ledger.read[0], name=f"file {n}") for n in range(FOLD + 2))
    ledger = replace(record.ledger, read=files)
    text = written(replace(with_test(record, samples=samples), ledger=ledger), tmp_path)
    assert "<summary>1 more question</summary>" in text
    assert "<summary>2 more files</summary>" in text
    assert text.index("question 19") < text.index("1 more question") < text.index("question 20")


def test_what_it_leads_with_comes_first_and_the_score_is_not_green(record, tmp_path):
    told = "not better than a constant answer: `<ham>` gives 0.997 too"
    text = written(with_test(record, lead=(told,)), tmp_path)
    lead = text.index("Not better than a constant answer: <code>&lt;ham&gt;</code>")
    assert lead < text.index('<div class="headline plain">')
    assert '<div class="headline">' in written(with_test(record, lead=()), tmp_path)


def test_beside_the_loss_stands_the_validation_curve_or_the_only_validation(record, tmp_path):
    def learning(of):
        text = written(of, tmp_path)
        return text[text.index("<h2>Learning</h2>") : text.index("<h2>Test scores</h2>")]

    (only,) = record.training.validations
    part = learning(record)
    assert part.count("<figure>") == 1
    assert f'<th scope="row">accuracy</th><td>{only.metrics["accuracy"]:.4f}</td>' in part
    twice = (replace(only, step=1), replace(only, step=2))
    changed = replace(record, training=replace(record.training, validations=twice))
    assert learning(changed).count("<figure>") == 2


def test_one_is_no_plural(record, tmp_path):
    import torch

    assert [plural(n, "row") for n in (0, 1, 2, 1200)] == [
        "0 rows",
        "1 row",
        "2 rows",
        "1,200 rows",
    ]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        assert device_name(torch.device("cpu")) == "cpu, 1 thread"
    finally:
        torch.set_num_threads(threads)
    splits = {**record.ledger.splits, "test": replace(record.ledger.splits["test"], rows=1)}
    changed = replace(record, ledger=replace(record.ledger, splits=splits))
    assert "on 1 unseen row," in written(changed, tmp_path)


def test_every_table_scrolls_in_its_own_box(record, tmp_path):
    for text in (written(with_labels(record, [f"l{n}" for n in range(50)]), tmp_path),
                 page(made())):  # fmt: skip
        boxes = text.count('class="scroll"')
        tables = len(re.findall(r"<table(?! class=\"sample\")", text))
        assert tables >= 2
        assert len(re.findall(r'class="scroll"[^>]*><table', text)) == tables <= boxes


def test_a_screen_reader_finds_names_for_tables_pictures_and_boxes(record, tmp_path):
    for text in (
        written(with_labels(record, [f"l{n}" for n in range(50)]), tmp_path),
        written(record, tmp_path),
        page(made()),
    ):
        tags = Page(text).tags
        assert next(a for tag, a in tags if tag == "html")["lang"] == "en"
        assert all(a.get("scope") in ("row", "col", "colgroup") for tag, a in tags if tag == "th")
        assert "<th></th>" not in text
        pictures = [a for tag, a in tags if tag == "svg"]
        assert pictures
        assert all(a["role"] == "img" and a["aria-label"] for a in pictures)
        boxes = [a for _, a in tags if "tabindex" in a]
        assert boxes
        assert all(a["role"] == "region" and a["aria-label"] for a in boxes)
        headings = [int(tag[1]) for tag, _ in tags if re.fullmatch(r"h\d", tag)]
        assert headings[0] == 1
        assert set(headings[1:]) == {2}


def test_the_numbers_of_a_small_confusion_are_a_table_too(record, tmp_path):
    labels = ["good", "bad", "<b>"]
    text = written(with_labels(record, labels), tmp_path)
    table = text[text.index("The numbers of the picture as a table") :].partition("</table>")[0]
    table = table.replace("<wbr>", "")
    counts = with_labels(record, labels).test.matrices[0].counts
    for label, row in zip(("good", "bad", "&lt;b&gt;"), counts, strict=True):
        cells = "".join(f"<td>{count}</td>" for count in row)
        assert f'<th scope="row">{label}</th>{cells}' in table
    assert "as a table" not in written(with_labels(record, [f"l{n}" for n in range(50)]), tmp_path)


def test_notes_show_fields_as_code(record, tmp_path):
    ledger = replace(record.ledger, notes=("set `training.evaluate_every` to 2",))
    text = written(replace(record, ledger=ledger), tmp_path)
    assert '<p class="note">set <code>training.evaluate_every</code> to 2</p>' in text


def test_a_comparison_of_many_methods_is_folded():
    rows = [made_row("sentiment_full")]
    rows += [{**made_row("sentiment_lora"), "name": f"method {n}"} for n in range(24)]
    text = page(made(rows))
    assert not Page(text).open
    assert len(table_of(text)) == FOLD
    assert "<summary>All 25 rows; the first 20 are above</summary>" in text
    assert len(table_of(text[text.index("<summary>All 25") :])) == 25
    assert "<summary>All" not in page(made(rows[:FOLD]))


def test_a_comparison_of_one_of_each_counts_right():
    budget = {"num_epochs": 1, "num_steps": 1, "batch_size": 1, "tokens": 1, "trials": 1,
              "search_steps": 1, "num_seeds": 1}  # fmt: skip
    text = page(made(budget=budget, split_rows={"train": 1, "validation": 1, "test": 1}))
    assert not re.search(r"\b1 (epochs|steps|tokens|rates|seeds|rows)\b", Page(text).text)


def test_a_long_table_begins_with_the_worst_class_that_has_rows():
    rows = [(f"c{n}", n / 30, 0 if n < 2 else 5) for n in range(30)]
    table = folded(ScoreTable("Per label", ("label", "f1", "support"), tuple(rows)))
    assert [row[0] for row in table.shown][:2] == ["c2", "c3"]
    plain = folded(ScoreTable("Per label", ("label", "f1"), tuple(row[:2] for row in rows)))
    assert [row[0] for row in plain.shown][:2] == ["c0", "c1"]
