"""Who is in which split: every row once, no leaks, and nothing lost without being counted."""

from __future__ import annotations

import random
import tempfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit import Data, TextClassification
from peftkit.data.ledger import Ledger
from peftkit.data.splits import Splits, load_splits
from peftkit.errors import DataError
from tests.conftest import sentences, write_csv

Rows = Iterable[tuple[str, ...]]
LABELS = ("bad", "good", "mixed")


def load(path: Path, split_seed: int = 0, **data: object) -> tuple[Splits, Ledger]:
    return load_splits(TextClassification(data=Data(path=str(path), **data)), split_seed)


def texts(splits: Splits) -> dict[str, set[str]]:
    return {name: {row.values["text"] for row in rows} for name, rows in splits.named().items()}


def where(splits: Splits) -> dict[str, str]:
    """Text -> name of its split."""
    return {text: name for name, members in texts(splits).items() for text in members}


def numbered(*sizes: int) -> list[tuple[str, str]]:
    """So many different texts of each label."""
    return [
        (f"{label} {n}", label)
        for label, size in zip(LABELS, sizes, strict=False)
        for n in range(size)
    ]


def write_folder(folder: Path, **splits: Rows) -> Path:
    for name, rows in splits.items():
        write_csv(folder / f"{name}.csv", rows)
    return folder


# --- drawn splits


def test_the_sizes_are_70_15_15(reviews):
    splits, _ = load(reviews)
    assert {name: len(rows) for name, rows in splits.named().items()} == {
        "train": 140,
        "validation": 30,
        "test": 30,
    }


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(20, 60), min_size=2, max_size=3), st.integers(0, 99))
def test_every_label_has_its_share_of_each_split(sizes, seed):
    """To one row in test; the others are rounded twice."""
    with tempfile.TemporaryDirectory() as folder:
        splits, _ = load(write_csv(Path(folder) / "r.csv", numbered(*sizes)), seed)
    for name, rows in splits.named().items():
        found = Counter(row.values["label"] for row in rows)
        for label, size in zip(LABELS, sizes, strict=False):
            assert abs(found[label] - len(rows) * size / sum(sizes)) < (1 if name == "test" else 2)


def test_every_row_is_in_exactly_one_split(tmp_path):
    rows = numbered(61, 40)
    splits, _ = load(write_csv(tmp_path / "r.csv", rows))
    placed = [row.values["text"] for split in splits.named().values() for row in split]
    assert sorted(placed) == sorted(text for text, _ in rows)


def test_the_same_seed_gives_the_same_splits(reviews):
    assert load(reviews, split_seed=3) == load(reviews, split_seed=3)


def test_another_seed_gives_other_splits(reviews):
    assert texts(load(reviews, split_seed=0)[0]) != texts(load(reviews, split_seed=1)[0])


@pytest.mark.parametrize("group", ["", "customer"])
def test_the_order_of_the_file_does_not_matter(tmp_path, group):
    rows = [(text, label, str(n // 4)) for n, (text, label) in enumerate(numbered(60, 60))]
    random.Random(1).shuffle(rows)  # customers with both labels, some with as many of each
    rows = [(text, label, str(n // 4)) for n, (text, label, _) in enumerate(rows)]
    header = ("text", "label", "customer")
    first, _ = load(write_csv(tmp_path / "a.csv", rows, header), group=group)
    second, _ = load(write_csv(tmp_path / "b.csv", rows[::-1], header), group=group)
    assert texts(first) == texts(second)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.integers(10, 40), min_size=2, max_size=3),
    st.sampled_from(LABELS[:2]),
    st.integers(0, 10**6),
)
def test_one_more_row_moves_few_others(sizes, label, number):
    """Of each label: at most one into or out of test, one into or out of train."""
    rows = numbered(*sizes)
    with tempfile.TemporaryDirectory() as folder:
        before, _ = load(write_csv(Path(folder) / "a.csv", rows))
        after, _ = load(write_csv(Path(folder) / "b.csv", [*rows, (f"added {number}", label)]))
    old, new = where(before), where(after)
    for name, most in {"test": 1, "train": 1}.items():
        crossed = Counter(of for text, of in rows if (old[text] == name) != (new[text] == name))
        assert max(crossed.values(), default=0) <= most


def test_groups_stay_whole(tmp_path):
    rows = [(text, label, f"customer {n % 23}") for n, (text, label) in enumerate(numbered(80, 80))]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "customer"))
    splits, _ = load(path, group="customer")
    homes = [{row.group for row in split} for split in splits.named().values()]
    assert all(homes), "no split is empty"
    assert sum(map(len, homes)) == len(set.union(*homes)) == 23


def test_a_group_may_be_called_zero(tmp_path):
    rows = [f'{{"text": "t{n}", "label": {n % 2}, "customer": {n // 4}}}' for n in range(80)]
    path = tmp_path / "r.jsonl"
    path.write_text("\n".join(rows))
    splits, _ = load(path, group="customer")
    assert "0" in {row.group for split in splits.named().values() for row in split}


def test_an_unnamed_column_is_no_group(tmp_path):
    rows = [("one", text, label) for text, label in numbered(20, 20)]
    splits, _ = load(write_csv(tmp_path / "r.csv", rows, ("", "text", "label")))
    assert {row.group for split in splits.named().values() for row in split} == {""}


def test_a_row_without_its_group_is_malformed(tmp_path):
    rows = [(text, label, "" if text == "bad 3" else text) for text, label in numbered(20, 20)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "customer"))
    with pytest.raises(
        DataError, match=r"1 of 40 rows cannot be used: 1 empty customer \(line 5\)"
    ):
        load(path, group="customer")


# --- duplicates, contradictions, leaks


@pytest.mark.parametrize(
    "variant", ["A bright film", "  a bright\tfilm ", "a  bright\n film", "A BRIGHT FILM"]
)
def test_a_repeated_text_is_kept_once(tmp_path, variant):
    rows = [("a bright film", "good"), *numbered(20, 20), (variant, "good")]
    splits, ledger = load(write_csv(tmp_path / "r.csv", rows))
    kept = [text for text in where(splits) if text.casefold().split() == ["a", "bright", "film"]]
    assert kept == ["a bright film"]
    assert (ledger.read[0].duplicate, ledger.read[0].kept) == (1, 41)


def test_accents_count_as_the_same_however_they_are_encoded(tmp_path):
    rows = [("caf\u00e9", "good"), *numbered(20, 20), ("cafe\u0301", "good")]
    _, ledger = load(write_csv(tmp_path / "r.csv", rows))
    assert ledger.read[0].duplicate == 1


def test_rows_that_contradict_each_other_are_all_left_out(tmp_path):
    rows = [*numbered(20, 20), ("It depends", "good"), ("it depends", "bad"), ("it depends", "bad")]
    splits, ledger = load(write_csv(tmp_path / "r.csv", rows))
    assert "it depends" not in {text.casefold() for text in where(splits)}
    assert (ledger.read[0].conflicting, ledger.read[0].kept) == (3, 40)


def test_given_splits_are_kept(tmp_path):
    rows = numbered(30, 30)
    given_rows = {"train": rows[::2], "validation": rows[1::4], "test": rows[3::4]}
    splits, _ = load(write_folder(tmp_path, **given_rows))
    assert texts(splits) == {name: {t for t, _ in part} for name, part in given_rows.items()}


def test_rows_that_test_has_too_are_taken_out_of_the_others(tmp_path):
    rows = numbered(30, 30)
    folder = write_folder(
        tmp_path,
        train=rows,
        validation=[*numbered(33, 33)[30:33], ("GOOD 31", "good"), rows[1]],
        test=[rows[0], rows[1], ("Good 31", "good")],
    )
    splits, ledger = load(folder)
    assert texts(splits)["test"] == {"bad 0", "bad 1", "Good 31"}
    assert texts(splits)["validation"] == {"bad 30", "bad 31", "bad 32"}
    assert texts(splits)["train"] == {text for text, _ in rows[2:]}
    assert {name: counts.leaked for name, counts in ledger.splits.items()} == {
        "train": 2,
        "validation": 2,
        "test": 0,
    }


def test_a_group_of_the_test_split_is_taken_out_of_train(tmp_path):
    header = ("text", "label", "customer")
    rows = [(text, label, f"c{n % 10}") for n, (text, label) in enumerate(numbered(40, 40))]
    write_csv(tmp_path / "train.csv", rows, header)
    write_csv(tmp_path / "test.csv", [("new", "good", "c3"), ("newer", "bad", "c3")], header)
    splits, ledger = load(tmp_path, group="customer")
    assert "c3" not in {row.group for row in (*splits.train, *splits.validation)}
    assert ledger.splits["train"].leaked == 8


def test_validation_is_carved_out_of_train_where_it_is_not_given(tmp_path):
    rows = numbered(60, 60)
    splits, _ = load(write_folder(tmp_path, train=rows[:100], test=rows[100:]))
    assert texts(splits)["test"] == {text for text, _ in rows[100:]}
    assert texts(splits)["train"] | texts(splits)["validation"] == {text for text, _ in rows[:100]}
    assert len(splits.validation) == 15


# --- data that does not suffice


def test_a_label_that_only_test_has_is_refused(tmp_path):
    folder = write_folder(tmp_path, train=numbered(20, 20), test=[("new", "god"), ("old", "bad")])
    with pytest.raises(DataError, match="the test split has the label `god`") as error:
        load(folder)
    assert error.value.hint == "did you mean `good`?"


def test_one_label_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"one label in the training rows, `bad`"):
        load(write_csv(tmp_path / "r.csv", numbered(20)))


@pytest.mark.parametrize(("count", "told"), [(1, "1 usable row in"), (2, "2 usable rows in")])
def test_fewer_rows_than_splits_are_refused(tmp_path, count, told):
    with pytest.raises(DataError, match=told):
        load(write_csv(tmp_path / "r.csv", sentences(count)))


def test_groups_too_large_to_split_are_refused(tmp_path):
    rows = [(text, label, "one") for text, label in numbered(10, 10)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "customer"))
    with pytest.raises(DataError, match="no rows in") as error:
        load(path, group="customer")
    assert "rows of one group, or with the same input" in error.value.hint


@pytest.mark.parametrize(
    ("columns", "hint"),
    [
        ({"text": "Texts"}, "did you mean `text`?"),
        ({"label": "sentiment"}, "`--task.data.label NAME`"),
        ({"group": "labels"}, "did you mean `label`?"),
    ],
)
def test_a_missing_column_is_told_with_a_way_out(reviews, columns, hint):
    (missing,) = columns.values()
    with pytest.raises(DataError, match=f"no column `{missing}`; it has `text`, `label`") as error:
        load(reviews, **columns)
    assert hint in error.value.hint


# --- rows that cannot be used


BROKEN = [("", "good"), ("   ", "bad"), ("no label", ""), ("too", "many", "fields")]


def test_malformed_rows_stop_the_reading_with_a_list(tmp_path):
    path = write_csv(tmp_path / "r.csv", [*numbered(20, 20), *BROKEN])
    with pytest.raises(DataError) as error:
        load(path)
    told = "2 empty text (lines 42, 43), 1 too many fields (line 45), 1 empty label (line 44)"
    assert error.value.message == f"`{path}`: 4 of 44 rows cannot be used: {told}"
    assert "--task.data.malformed skip" in error.value.hint


def test_malformed_rows_are_skipped_on_request_and_counted(tmp_path):
    path = write_csv(tmp_path / "r.csv", [*numbered(20, 20), *BROKEN])
    splits, ledger = load(path, malformed="skip")
    assert len(where(splits)) == 40
    assert ledger.read[0].malformed == {
        "empty text": [42, 43],
        "too many fields": [45],
        "empty label": [44],
    }


def test_a_file_of_nothing_but_malformed_rows_is_refused_even_so(tmp_path):
    with pytest.raises(DataError, match="4 of 4 rows cannot be used"):
        load(write_csv(tmp_path / "r.csv", BROKEN), malformed="skip")


# --- the ledger


def test_max_rows_draws_each_label_in_its_share_and_counts_the_others(tmp_path):
    splits, ledger = load(write_csv(tmp_path / "r.csv", numbered(150, 50)), max_rows=40)
    labels = Counter(row.values["label"] for split in splits.named().values() for row in split)
    assert labels == {"bad": 30, "good": 10}
    assert (ledger.read[0].kept, ledger.read[0].not_drawn) == (40, 160)


TEXT = st.one_of(st.integers(0, 12).map("text {}".format), st.sampled_from(["", "Text 1", " "]))
TABLE = st.lists(st.tuples(TEXT, st.sampled_from(["bad", "good", ""])), max_size=40)


@settings(max_examples=60, deadline=None)
@given(TABLE, st.none() | st.integers(30, 60))
def test_every_row_read_is_accounted_for(table, max_rows):
    rows = [*numbered(25, 25), *table]
    with tempfile.TemporaryDirectory() as folder:
        path = write_csv(Path(folder) / "r.csv", rows)
        splits, ledger = load(path, malformed="skip", max_rows=max_rows)
    (read,) = ledger.read
    malformed = sum(map(len, read.malformed.values()))
    assert read.read == len(rows)
    assert read.read == malformed + read.duplicate + read.conflicting + read.not_drawn + read.kept
    assert read.kept == sum(map(len, splits.named().values()))
    assert malformed == sum(not text.strip() or not label for text, label in rows)


def test_the_ledger_counts_each_split_by_label(reviews):
    splits, ledger = load(reviews)
    for name, rows in splits.named().items():
        assert ledger.splits[name].rows == len(rows)
        assert ledger.splits[name].strata == Counter(row.values["label"] for row in rows)
