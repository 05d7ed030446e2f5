"""Cross-validation: who is in which fold, runs that resume, one table, and the chosen adapter."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from peftkit import Data, TextClassification
from peftkit.data.splits import Splits, load_splits
from peftkit.errors import DataError, PeftkitError, RecipeError
from tests.conftest import sentences, write_csv


def split(path: Path, fold: int | None, folds: int = 5, **fields: object) -> Splits:
    data = Data(path=str(path), folds=folds, fold=fold, **fields)
    return load_splits(TextClassification(data=data), 0)[0]


def texts(rows: tuple) -> list[str]:
    return [row.values["text"] for row in rows]


# --- who is in which fold


def test_every_row_is_a_test_row_once_and_in_one_split_of_each_fold(tmp_path):
    rows = [(f"{label} {n}", label) for label, size in (("a", 31), ("b", 17)) for n in range(size)]
    path = write_csv(tmp_path / "r.csv", [*rows, rows[0]])
    folds = [split(path, fold) for fold in range(1, 6)]
    assert sorted(text for fold in folds for text in texts(fold.test)) == sorted(t for t, _ in rows)
    for fold in folds:
        assert sorted(t for part in fold.named().values() for t in texts(part)) == sorted(
            text for text, _ in rows
        )
        counts = Counter(row.values["label"] for row in fold.test)
        assert counts["a"] in (6, 7) and counts["b"] in (3, 4) and len(fold.test) in (9, 10)
        assert len(fold.validation) == round(48 * 0.15)
    validated = {text for fold in folds for text in texts(fold.validation)}
    assert len(validated) > 2 * 7  # not the same rows in each fold


def test_a_group_is_in_one_split_and_folds_are_of_even_size(tmp_path):
    rows = [(f"text {n}", "ab"[n % 2], f"g{n // 10}") for n in range(80)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "who"))
    for fold in range(1, 6):
        splits = split(path, fold, group="who")
        groups = [{row.group for row in rows} for rows in splits.named().values()]
        assert sum(map(len, groups)) == len(set.union(*groups)) == 8
        assert len(splits.test) in (10, 20)


def test_the_order_of_the_file_does_not_matter(tmp_path):
    rows = sentences(60)
    one = split(write_csv(tmp_path / "a.csv", rows), 2)
    other = split(write_csv(tmp_path / "b.csv", rows[::-1]), 2)
    assert set(texts(one.test)) == set(texts(other.test))


def test_two_folds_with_as_many_rows_as_splits(tmp_path):
    path = write_csv(tmp_path / "r.csv", [(f"t {n}", "ab"[n % 2]) for n in range(6)])
    splits = split(path, 1, folds=2)
    assert [len(rows) for rows in splits.named().values()] == [2, 1, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"fold": 2}, "`fold` is 2, but `folds` does not say of how many"),
        ({"folds": 3, "fold": 4}, "`fold` is 4, and there are 3 folds"),
        ({"folds": 3, "test_fraction": 0.3}, "`test_fraction` and `folds` exclude each other"),
        ({"folds": 2, "validation_fraction": 0.5}, "one of 2 folds as test split leave no rows"),
        ({"folds": 21}, "folds"),
    ],
)
def test_fields_that_do_not_fit(fields, message):
    with pytest.raises((PeftkitError, ValueError), match=message):
        Data(path="x.csv", **fields)


def test_folds_of_own_splits_are_refused(tmp_path):
    for name in ("train", "test"):
        write_csv(tmp_path / f"{name}.csv", [(f"{name} {n}", "ab"[n % 2]) for n in range(20)])
    with pytest.raises(DataError, match="has its own `test` rows, and `folds` divides rows") as one:
        split(tmp_path, 1)
    assert "leave `folds` out" in one.value.hint


def test_more_folds_than_rows_or_groups_are_refused(tmp_path):
    rows = [(f"text {n}", "ab"[n % 2], f"g{n % 4}") for n in range(40)]
    path = write_csv(tmp_path / "r.csv", rows, ("text", "label", "who"))
    with pytest.raises(DataError, match="4 groups in .*, fewer than 5 folds") as error:
        split(path, 1, group="who")
    assert error.value.hint == "add groups, or lower `folds`"


def test_a_label_with_one_row_cannot_be_tested(tmp_path):
    path = write_csv(tmp_path / "r.csv", [*sentences(30), ("a rare one", "rare")])
    messages = []
    for fold in range(1, 6):
        try:
            split(path, fold)
        except DataError as error:
            messages.append(error.message)
    assert len(messages) == 1 and "the test split has the label `rare`" in messages[0]


def test_one_run_of_all_folds_is_refused(tmp_path):
    with pytest.raises(RecipeError, match="makes 5 runs, and this is one"):
        split(write_csv(tmp_path / "r.csv", sentences(30)), None)
