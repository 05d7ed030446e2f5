"""Labels that look alike, numbers that are no classes, and what a run says about rows."""

from __future__ import annotations

import io
import unicodedata

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from rich.console import Console

from peftkit.data.ledger import Ledger, SplitCounts
from peftkit.data.source import Data, as_number
from peftkit.data.splits import load_splits
from peftkit.errors import DataError
from peftkit.recipe import Training
from peftkit.reports.strata import print_strata
from peftkit.tasks.reading.labels import alike, folded, scores_not_classes, visible
from peftkit.tasks.text_classification import TextClassification
from peftkit.training.budget import budget_notes
from tests.conftest import write_csv

NUMBER = Data(path="x.csv").number
COMMA = Data(path="x.csv", decimal=",").number
NAMES = st.text("abcdéöñ好xyz ", min_size=1, max_size=8).map(str.strip).filter(bool)
CHANGES = {
    "upper": str.upper,
    "decomposed": lambda label: unicodedata.normalize("NFD", label),
    "zero width space": lambda label: f"{label[0]}\u200b{label[1:]}",
    "byte order mark": lambda label: f"\ufeff{label}",
    "full stop": lambda label: f"{label}.",
    "Chinese mark": lambda label: f"{label}！",
    "no-break space": lambda label: f"{label}\xa0",
    "emoji": lambda label: f"{label}\ufe0f",
    "wide": lambda label: "".join(chr(ord(c) + 0xFEE0) if "!" < c <= "~" else c for c in label),
}


@settings(max_examples=200, deadline=None)
@given(name=NAMES, changes=st.lists(st.sampled_from(sorted(CHANGES)), min_size=1, max_size=3))
def test_labels_that_differ_in_what_nobody_sees_are_one_group(name, changes):
    other = name
    for change in changes:
        other = CHANGES[change](other)
    assume(other != name)
    assert folded(other, NUMBER) == folded(name, NUMBER)
    assert alike({name: 5, other: 3, "something else": 9}, NUMBER) == [[name, other]]
    assert visible(name) != visible(other) or other.strip() == name


PAIRS = [
    ("non-toxic", "non\u2011toxic"), ("non-toxic", "non_toxic"), ("non-toxic", "Non toxic"),
    ("-1", "\u22121"), ("iyi", "İyi"), ("pos", "\u0440\u043es"), ("1,234", "1234"),
    ("ÖZET", "özet"),
]  # fmt: skip
APART = [
    ("A", "A-"), ("A+", "A"), ("-1", "1"), ("1234567890120", "1234567890121"), ("C#", "C"),
    ("12345678901234567890", "12345678901234567891"), ("рок", "pok"), ("ab", "a b"),
    ("9" * 5000, "9" * 4999 + "8"),
]  # fmt: skip


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_labels_that_a_reader_takes_for_one_are_alike(one, other):
    assert alike({one: 5, other: 3}, NUMBER) == [[one, other]]


@pytest.mark.parametrize(("one", "other"), APART)
def test_labels_that_a_reader_tells_apart_are_not(one, other):
    assert alike({one: 5, other: 3}, NUMBER) == []


@pytest.mark.parametrize(
    ("text", "decimal", "value"),
    [
        ("1.234", ",", 1234.0), ("1,5", ",", 1.5), ("1.234,5", ",", 1234.5), ("0.5", ",", None),
        ("0.500", ",", None), ("0,100", ".", None), ("-0,100", ".", None), ("0,100", ",", 0.1),
        ("1,234.5", ".", 1234.5), ("1,5", ".", None), ("1_000", ".", None), ("nan", ".", None),
    ],
)  # fmt: skip
def test_numbers_are_read_as_they_are_written(text, decimal, value):
    assert as_number(text, decimal) == value


@settings(max_examples=100, deadline=None)
@given(value=st.integers(-999, 999), zeros=st.integers(1, 3))
def test_a_number_is_one_label_however_it_is_written(value, zeros):
    ways = [f"{value}", f"{value}.{'0' * zeros}", f" {value}.", f"{value:+d}"]
    assert {folded(way, NUMBER) for way in ways} == {f"{value:g}"}
    assert folded(f"{value},{'0' * zeros}", COMMA) == f"{value:g}"


@settings(max_examples=100, deadline=None)
@given(st.lists(NAMES.map(lambda n: n.replace(" ", "")).filter(bool), min_size=2, max_size=6))
def test_labels_that_differ_stay_apart(names):
    plain = {unicodedata.normalize("NFC", name.casefold()) for name in names}
    assert len({folded(name, NUMBER) for name in names}) == len(plain)


@settings(max_examples=100, deadline=None)
@given(
    low=st.floats(-5, 0),
    high=st.floats(0.5, 100),
    distinct=st.integers(12, 200),
    rows=st.integers(1, 4),
)
def test_numbers_with_fractions_are_scores(low, high, distinct, rows):
    values = [low + 0.003 + (high - low) * n / distinct for n in range(distinct)]
    assert "scores, not classes" in scores_not_classes({f"{v:.6f}": rows for v in values}, NUMBER)


@settings(max_examples=100, deadline=None)
@given(first=st.integers(0, 3), distinct=st.integers(2, 200), rows=st.integers(5, 50))
def test_numbers_that_count_classes_are_classes(first, distinct, rows):
    counts = {str(number): rows for number in range(first, first + distinct)}
    assert scores_not_classes(counts, NUMBER) == ""
    assert scores_not_classes({f"{float(n)}": c for n, c in counts.items()}, NUMBER) == ""
    assert scores_not_classes({f"intent {n}": c for n, c in counts.items()}, NUMBER) == ""


@pytest.mark.parametrize(
    "counts",
    [
        {str(n): 100 for n in range(100, 374, 7)}, {str(n): 2 for n in range(6)},
        {str(1000 + 37 * n): 50 for n in range(40)}, {str(n): 3 for n in range(150)},
        {f"{n / 2}": 18 for n in range(11)}, {"1": 2, "2": 1, "3": 2, "4": 1, "5": 2},
        {f"{n / 10}": 9 for n in range(10, 25)}, {"0.33": 333, "0.67": 333, "1.0": 334},
        {"4.99": 40, "9.99": 40, "19.99": 40}, {f"3.{n}": 60 for n in range(8, 13)},
        {f"{250 + 17.01 * n:.2f}": 25 for n in range(40)},
    ],
)  # fmt: skip
def test_ids_and_ratings_are_classes(counts):
    assert scores_not_classes(counts, NUMBER) == ""


@pytest.mark.parametrize(
    ("values", "decimal", "told"),
    [
        (
            [f"{n / 90:.4f}" for n in range(90)],
            ".",
            "90 different ones in 90 rows, from 0 to 0",
        ),
        ([f"{n % 51 / 10}" for n in range(300)], ".", "51 different ones in 300 rows, from 0"),
        ([f"{n % 51},5" for n in range(300)], ",", "51 different ones in 300 rows"),
        ([f"{n % 51},5" for n in range(300)], ".", "51 different ones in 300 rows"),
        ([str(1900 + n) for n in range(100)], ".", "100 different ones in 100 rows"),
        ([str(n * n) for n in range(60)] * 3, ".", "60 different ones in 180 rows"),
    ],
)
def test_a_column_of_scores_is_named_as_one(tmp_path, values, decimal, told):
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(f'{{"text": "t {n}", "label": "{v}"}}' for n, v in enumerate(values)))
    with pytest.raises(DataError) as error:
        load_splits(TextClassification(data=Data(path=str(path), decimal=decimal)), 0)
    assert f"column `label` holds numbers, {told}" in error.value.message
    assert "task.data.label_names" in error.value.hint


def test_numbers_that_are_named_as_classes_are_classes(tmp_path):
    names = {f"{n / 10}": f"version {n}" for n in range(12)}
    path = write_csv(tmp_path / "r.csv", [(f"text {n}", f"{n % 12 / 10}") for n in range(120)])
    data = Data(path=str(path), label_names=names)
    splits, _ = load_splits(TextClassification(data=data), 0)
    assert {str(row.values["label"]) for row in splits.train} == set(names.values())


# --- notes


def notes_of(tmp_path, rows, **fields):
    path = write_csv(tmp_path / "r.csv", rows)
    data = {name: fields.pop(name) for name in ("fold_labels",) if name in fields}
    task = TextClassification(data=Data(path=str(path), **data), **fields)
    return load_splits(task, 0)[1].notes


def rows_of(**counts):
    """So many rows of each label."""
    labels = [label for label, count in counts.items() for _ in range(count)]
    return [(f"text number {n}", label) for n, label in enumerate(labels)]


def test_ordinary_rows_have_no_note(tmp_path):
    assert notes_of(tmp_path, rows_of(good=100, bad=60)) == ()


def test_labels_that_look_alike_are_noted_once_and_folded_on_request(tmp_path):
    rows = rows_of(**{"Pos": 50, "pos": 40, "pos\u200b": 40, "neg": 60, "neg.": 40})
    [note] = notes_of(tmp_path, rows)
    assert note.startswith(
        "labels that look alike count as separate classes: `Pos` (50 rows) and `pos` (40 rows) and "
        "`pos\\u200b` (40 rows); `neg` (60 rows) and `neg.` (40 rows); `--task.data.fold-labels`"
    )
    assert notes_of(tmp_path, rows, fold_labels=True) == ()
    data = Data(path=str(tmp_path / "r.csv"), fold_labels=True)
    _, ledger = load_splits(TextClassification(data=data), 0)
    assert ledger.splits["train"].strata == {"neg": 70, "pos": 91}


@pytest.mark.parametrize(
    ("counts", "told"),
    [
        ({"ok": 970, "bad": 30}, "far from balanced: `ok` has 679 of 700 training rows, `bad` 21"),
        ({"a": 300, "b": 280, "c": 5}, "`c` 3"),
        ({f"l{n}": 2 for n in range(90)}, "126 training rows are too few for 90 labels"),
        ({"a": 60, "b": 60, "c": 12}, "some labels have fewer than 5 rows in a split"),
        ({"a;b": 30, "a": 30, "b": 30, "b;c": 30, "a;c": 30, "c": 30}, "look like lists of labels"),
        ({'["x"]': 30, '["x", "y"]': 30}, 'look like lists of labels, such as `["x"]`'),
        ({'["x"]': 30, '["x", "y"]': 30}, "MultiLabelClassification gives a text several labels"),
    ],
)
def test_labels_that_will_not_do_are_noted(tmp_path, counts, told):
    assert any(told in note for note in notes_of(tmp_path, rows_of(**counts)))


def test_the_hint_to_weigh_labels_goes_where_they_are_weighed(tmp_path):
    rows = rows_of(ok=970, bad=30)
    assert any("--task.class-weights balanced" in note for note in notes_of(tmp_path, rows))
    weighed = notes_of(tmp_path, rows, class_weights="balanced")
    assert not any("--task.class-weights" in note for note in weighed)


def test_texts_that_are_addresses_are_noted(tmp_path):
    rows = [(f"https://example.org/{n}", "ab"[n % 2]) for n in range(60)]
    rows += [(f"text {n}", "ab"[n % 2]) for n in range(60)]
    assert any("web addresses only" in note for note in notes_of(tmp_path, rows))


def test_a_column_without_letters_as_text_is_noted(tmp_path):
    rows = [(f"{1000 + n}", "ab"[n % 2]) for n in range(60)]
    told = "no training text has a letter; is `text` (for example `10"
    assert any(told in note for note in notes_of(tmp_path, rows))
    rows.append(("一千", "a"))
    assert not any("has a letter" in note for note in notes_of(tmp_path, rows[::-1]))


def test_many_numbers_as_classes_are_noted(tmp_path):
    rows = [(f"text {n}", f"{n % 101}%") for n in range(2020)]
    assert any("the labels are 101 numbers from 0 to 100" in n for n in notes_of(tmp_path, rows))


def test_a_list_is_many_labels_and_a_number_none(tmp_path):
    for counts in (
        {"[other]": 60, "a": 60},
        {"0,5": 60, "1,0": 60, "1,5": 60},
        {"[x": 60, "b": 60},
    ):
        assert not [n for n in notes_of(tmp_path, rows_of(**counts)) if "lists" in n]


def test_a_label_that_nobody_sees_is_empty(tmp_path):
    rows = [*rows_of(a=60, b=60), ("text", "\u200b"), ("\u200b\ufeff", "a")]
    with pytest.raises(DataError, match=r"1 empty label \(line 122\), 1 empty text \(line 123\)"):
        notes_of(tmp_path, rows)


def test_names_of_labels_that_are_folded_to_one_are_refused():
    names = {"A": "Apple", "a": "ant"}
    assert TextClassification(data=Data(path="x", label_names=names))
    with pytest.raises(ValidationError, match="names `Apple` and `ant` to labels"):
        TextClassification(data=Data(path="x", label_names=names, fold_labels=True))


def test_a_split_whose_labels_look_like_those_of_training_is_told_how(tmp_path):
    write_csv(tmp_path / "train.csv", rows_of(**{"0": 40, "1": 40}))
    write_csv(tmp_path / "test.csv", [(f"t {n}", f"{n % 2}.0") for n in range(20)])
    with pytest.raises(DataError) as error:
        load_splits(TextClassification(data=Data(path=str(tmp_path))), 0)
    assert error.value.hint == "`--task.data.fold-labels` merges labels that look alike"
    load_splits(TextClassification(data=Data(path=str(tmp_path), fold_labels=True)), 0)


def test_addresses_are_looked_for_in_no_time(tmp_path):
    rows = [("http://a" * 60 + " x", "ab"[n % 2]) for n in range(3)]
    assert not notes_of(tmp_path, [*rows_of(a=60, b=60), *rows[:1]])


def test_labels_with_one_row_each_are_the_reason_why_a_split_is_empty(tmp_path):
    rows = [(f"text {n}", f"label {n}") for n in range(40)]
    with pytest.raises(DataError, match="no rows in `validation`, `test`") as error:
        notes_of(tmp_path, rows)
    assert "40 of 40 have only one: give several rows of each" in error.value.hint


@pytest.mark.parametrize(
    ("training", "examples", "told"),
    [
        (
            {},
            112,
            ["only 12 optimizer steps (112 examples, 32 a step)", "`training.num"],
        ),
        ({"num_epochs": 1}, 20, ["only 1 optimizer step (20 examples"]),
        ({"max_steps": 5}, 9000, ["only 5 optimizer steps", "raise `training.max_steps`"]),
        (
            {"max_steps": 900},
            1000,
            ["training ends after 96 steps, which are 3 epochs", "`training.max_steps` is 900"],
        ),
        ({"num_epochs": 1}, 9000, ["validation runs once, at the end", "evaluate_every` to 70"]),
    ],
)
def test_few_steps_and_a_single_validation_are_noted(training, examples, told):
    notes = " ".join(budget_notes(Training(**training), examples))
    assert all(part in notes for part in told)
    assert not list(budget_notes(Training(), 5000))


# --- the table of labels


def printed(labels: int, whole: bool, width: int = 100) -> str:
    splits = {
        name: SplitCounts(rows, strata={f"label_{n}": rows + n for n in range(labels)})
        for name, rows in (("train", 50), ("validation", 10), ("test", 10))
    }
    console = Console(width=width, record=True, quiet=False, file=io.StringIO())
    print_strata(console, Ledger((), splits, stratum="intent"), whole)
    return console.export_text()


def test_a_few_labels_have_a_line_each():
    lines = printed(3, whole=False).splitlines()
    assert [line.split() for line in lines] == [
        ["intent", "train", "validation", "test"], ["label_2", "52", "12", "12"],
        ["label_1", "51", "11", "11"], ["label_0", "50", "10", "10"],
    ]  # fmt: skip


def test_many_labels_stand_side_by_side_or_are_counted():
    lines = printed(77, whole=True).splitlines()
    assert lines[0].strip() == "77 values of `intent`, rows in train + validation + test"
    assert len(lines) < 30
    assert all(len(line) <= 100 for line in lines)
    assert all(f"label_{n} {50 + n}+{10 + n}+{10 + n}" in "\n".join(lines) for n in range(77))
    assert printed(77, whole=False).strip() == "77 values of `intent`, 70 to 298 rows each"
    assert "labels" not in printed(0, whole=True)
