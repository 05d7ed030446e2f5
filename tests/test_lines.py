"""Every line of a file is a row, a part of one, or named: nothing is swallowed in silence."""

from __future__ import annotations

import csv
import io
import json
import tempfile
from pathlib import Path

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from peftkit.data.delimited import read_delimited
from peftkit.data.json_rows import read_json
from peftkit.data.reading import SPLIT_NAMES, read_source
from peftkit.data.source import Data, Source
from peftkit.data.splits import load_splits
from peftkit.errors import DataError
from peftkit.tasks.text_classification import TextClassification

WORDS = st.text("abcxyz é好.!?' ", min_size=1, max_size=12).map(str.strip).filter(bool)
LABELS = st.sampled_from(["good", "bad", "so so"])


def read(text: str, name: str = "rows.csv", separator: str = ""):
    return read_delimited(Path(name), text, "utf-8", separator)


def lines_of(table) -> list[int]:
    """All line numbers that a table accounts for, but header and blank lines."""
    rows = [number for number, _ in table.rows]
    return sorted([*rows, *(bad.number for bad in table.malformed), *table.continued])


@settings(max_examples=200, deadline=None)
@given(text=st.text('ab",\t;\n', max_size=60), name=st.sampled_from(["r.csv", "r.tsv"]))
def test_whatever_a_file_holds_each_of_its_lines_is_accounted_for(text, name):
    table = read("text,label\n" + text, name)
    lines = io.StringIO("text,label\n" + text, newline="").readlines()
    blank = [number for number, line in enumerate(lines, start=1) if not line.strip()]
    told = lines_of(table)
    assert len(told) == len(set(told))
    missing = set(range(2, len(lines) + 1)) - set(told)
    assert missing <= {*blank, *(n for n, line in enumerate(lines, 1) if not line.strip('", \t\n'))}


@settings(max_examples=100, deadline=None)
@given(
    rows=st.lists(st.tuples(WORDS, LABELS), min_size=6, max_size=30),
    strays=st.sets(st.integers(0, 29), min_size=1, max_size=4),
    closing=st.booleans(),
)
def test_stray_quotes_in_a_tsv_are_text_and_swallow_nothing(rows, strays, closing):
    """`closing`: a later text ends in a quote, so that the csv module joins all between."""
    at = sorted(number for number in strays if number < len(rows))
    assume(at and len({label for _, label in rows}) > 1)
    texts = [text for text, _ in rows]
    texts[at[0]] = '"' + texts[at[0]]
    for number in at[1:]:
        texts[number] = texts[number] + '"' if closing else '"' + texts[number]
    lines = [f"{text}\t{label}" for text, (_, label) in zip(texts, rows, strict=True)]
    table = read("text\tlabel\n" + "\n".join(lines), "rows.tsv")
    assert [values["text"] for _, values in table.rows] == texts
    assert not table.malformed
    assert "quotes in `rows.tsv` are read as text" in table.notes[0]


@settings(max_examples=60, deadline=None)
@given(
    rows=st.lists(
        st.tuples(st.text('ab",\n ', min_size=1, max_size=10), LABELS), min_size=1, max_size=8
    ),
    separator=st.sampled_from([",", "\t", ";"]),
)
@example(rows=[('a,b\n"c"', "good"), ("x", "bad")], separator=",")
def test_quotes_that_are_written_as_they_should_be_are_taken_off(rows, separator):
    out = io.StringIO(newline="")
    writer = csv.writer(out, delimiter=separator, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerows([("text", "label"), *rows])
    table = read(out.getvalue(), "r.tsv" if separator == "\t" else "r.csv")
    assert [(values["text"], values["label"]) for _, values in table.rows] == rows
    assert table.num_lines == out.getvalue().count("\n")
    assert len(table.continued) == sum(text.count("\n") for text, _ in rows)


@pytest.mark.parametrize("separator", [",", ";"])
def test_a_stray_quote_in_a_csv_names_its_line_and_leaves_the_others(separator):
    quoted = [f'"a, good; one"{separator}good', f'"he said ""no"""{separator}bad']
    lines = [
        *quoted,
        f'"never closed{separator}good',
        *[f"text {n}{separator}bad" for n in range(5)],
    ]
    table = read(f"text{separator}label\n" + "\n".join(lines), separator=separator)
    assert [(bad.number, bad.kind) for bad in table.malformed] == [(4, "stray quote")]
    assert len(table.rows) == 7


@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_a_quote_swallows_nothing_where_no_value_is_repeated(separator):
    lines = [f"question {n}?{separator}answer {n}" for n in range(60)]
    lines[9], lines[41] = f'"who{separator}he', f'what is"{separator}it'
    table = read(f"prompt{separator}completion\n" + "\n".join(lines), separator=separator)
    assert len(table.rows) + len(table.malformed) == 60
    lines[20] += f"{separator}more"  # a stray separator hides nothing
    table = read(f"prompt{separator}completion\n" + "\n".join(lines), separator=separator)
    assert len(table.rows) + len(table.malformed) == 60


def test_tables_inside_of_quotes_are_texts():
    rows = [(f"a\tb\nx\t{n}\nend {n}", "good") for n in range(4)]
    rows += [(f"plain {n}", "bad") for n in range(20)]
    out = io.StringIO(newline="")
    csv.writer(out, delimiter="\t", lineterminator="\n").writerows([("text", "label"), *rows])
    assert [tuple(v.values()) for _, v in read(out.getvalue(), "r.tsv").rows] == rows


@pytest.mark.parametrize("first", ["text", "label"])
@pytest.mark.parametrize("line", ["a row {n}, value {n}", "10:00:0{n},123 ERROR", "{n} cups,film"])
@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
def test_lines_with_separators_inside_of_quotes_are_texts(first, line, quoting):
    cells = ["\n".join(line.format(n=n) for n in range(k % 3, 12)) for k in range(6)]
    rows = [(text, "film") for text in [f"plain {n}" for n in range(40)] + cells]
    rows = rows if first == "text" else [row[::-1] for row in rows]
    header = ("text", "label") if first == "text" else ("label", "text")
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n", quoting=quoting).writerows([header, *rows])
    assert [tuple(v.values()) for _, v in read(out.getvalue()).rows] == rows


def test_many_stray_quotes_take_no_longer_than_many_lines():
    table = read("text,label\n" + 'a","c\n' * 30_000)  # quadratic: four minutes
    assert len(lines_of(table)) == 30_000


@pytest.mark.parametrize(
    ("lines", "told"),
    [
        ([f'"he said \\"no\\", {n}",a' for n in range(9)], "a quote after a backslash"),
        ([f'"he said \\"no\\" {n}",a' for n in range(9)], "a quote after a backslash"),
        (['"never closed,a', '"a, b",a', *(f"text {n},a" for n in range(9))], "stray quote"),
    ],
)
def test_the_kind_of_a_stray_quote_is_told(lines, told):
    assert read("text,label\n" + "\n".join(lines)).malformed[0].kind.startswith(told)


def test_quotes_after_a_space_are_told():
    table = read("text,label\n" + '"t", "a"\n' * 9)
    assert table.notes == (
        "in 9 rows of `rows.csv` a space precedes the quotes around a field, so the quotes are "
        "read as text",
    )


def test_a_row_torn_in_two_is_named_at_both_ends():
    lines = ["text,label", '"a, b",x', '"c, d",x', "e,x", '"torn,x', "f,x", 'end",x', "g,x"]
    table = read("\n".join(lines))
    assert [(bad.number, bad.kind) for bad in table.malformed] == [
        (5, "stray quote"), (7, "stray quote"),
    ]  # fmt: skip
    assert [number for number, _ in table.rows] == [2, 3, 4, 6, 8]


def test_a_field_of_several_lines_after_a_stray_quote_is_whole():
    lines = ["text,label", '"a ""b""",x', '"torn,x', "e,x", '"two', 'lines",x', "g,x"]
    table = read("\n".join(lines))
    assert [values["text"] for _, values in table.rows] == ['a "b"', "e", "two\nlines", "g"]
    assert [bad.number for bad in table.malformed] == [3]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("r.csv", "text;label\na;1,5\nb;2,5\n", "`;` between fields"),
        ("r.csv", "sep=;\ntext;label\na;1\nb;2\n", "`;` between fields"),
        ("r.csv", "text\tlabel\na, b\t1\nb\t2\n", "tabs between fields"),
        ("r.tsv", "text,label\na,1\nb,2\n", "`,` between fields"),
        ("r.tsv", "text|label\na|1\nb|2\n", "`|` between fields"),
    ],
)
def test_another_separator_is_found_and_told(name, text, told):
    table = read(text, name)
    assert table.columns == ("text", "label")
    assert len(table.rows) == 2
    assert told in table.notes[0]


def test_a_separator_that_is_given_is_taken_and_a_wrong_one_told():
    assert read("a;b\n1;2\n", separator=";").notes == ()
    assert read("a~b\n1~2\n", separator="~").columns == ("a", "b")
    with pytest.raises(DataError, match="`separator` is `,`, which is not in the header") as error:
        read("a;b\n1;2\n", separator=",")
    assert error.value.hint == "give `--task.data.separator ';'`, or leave it out"


# --- JSON


@settings(max_examples=60, deadline=None)
@given(
    keys=st.lists(st.sampled_from(["text", "label", "id"]), min_size=1, max_size=5),
    nested=st.booleans(),
    form=st.sampled_from(["lines", "list", "split"]),
)
def test_an_object_that_names_a_key_twice_is_malformed_wherever_it_stands(keys, nested, form):
    members = ", ".join(f'"{key}": "{key}{n}"' for n, key in enumerate(keys))
    bad = f'{{"meta": [{{{members}}}], "text": "a"}}' if nested else f"{{{members}}}"
    good = '{"text": "b", "label": "x"}'
    text = f"{good}\n{bad}\n" if form == "lines" else f"[{good}, {bad}]"
    text = f'{{"train": {text}}}' if form == "split" else text
    [table] = read_json(
        Path("r.jsonl" if form == "lines" else "r.json"), text, SPLIT_NAMES
    ).values()
    twice = next((key for key in keys if keys.count(key) > 1), None)
    expected = [(2, f"names `{twice}` twice")] if twice else []
    assert [(row.number, row.kind) for row in table.malformed] == expected
    assert len(table.rows) == 2 - bool(twice)


ROWS = [{"text": f"text {n}", "label": "ab"[n % 2]} for n in range(6)]
PAIRS = [[row["text"], row["label"]] for row in ROWS]
COLUMNS = {key: [row[key] for row in ROWS] for key in ("text", "label")}
SHAPES = {
    "list": ("r.json", ROWS),
    "array in jsonl": ("r.jsonl", ROWS),
    "pairs": ("r.json", PAIRS),
    "columns": ("r.json", COLUMNS),
    "pandas": ("r.json", {k: {str(n): v for n, v in enumerate(c)} for k, c in COLUMNS.items()}),
    "pandas split": ("r.json", {"columns": ["text", "label"], "index": [*range(6)], "data": PAIRS}),
    "wrapped": ("r.json", {"version": "1", "data": ROWS}),
    "by id": ("r.json", {f"q{n}": row for n, row in enumerate(ROWS)}),
    "wrapped twice": ("r.json", {"dataset": {"rows": ROWS}}),
}


@pytest.mark.parametrize("indent", [None, 2])
@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_of_json_gives_the_same_rows(tmp_path, shape, indent):
    name, value = SHAPES[shape]
    (tmp_path / name).write_text(json.dumps(value, indent=indent))
    [table] = read_source(Source(path=str(tmp_path / name))).values()
    assert [dict(values) for _, values in table.rows] == ROWS
    assert not table.malformed


def test_objects_over_several_lines_are_numbered_by_the_line_they_begin_on(tmp_path):
    text = "\n\n".join(json.dumps(row, indent=2) for row in ROWS)
    (tmp_path / "r.jsonl").write_text(text)
    [table] = read_source(Source(path=str(tmp_path / "r.jsonl"))).values()
    assert [number for number, _ in table.rows] == [1, 6, 11, 16, 21, 26]


@pytest.mark.parametrize("rows", [PAIRS, ROWS, COLUMNS, {f"q{n}": r for n, r in enumerate(ROWS)}])
def test_one_file_may_hold_all_splits(tmp_path, rows):
    path = tmp_path / "r.json"
    path.write_text(json.dumps({"train": rows, "val": rows, "test": rows, "oos_test": PAIRS[:2]}))
    tables = read_source(Source(path=str(path)))
    assert list(tables) == ["train", "validation", "test"]
    assert all(len(table.rows) == 6 for table in tables.values())
    assert [note for table in tables.values() for note in table.notes] == [
        "`oos_test` in `r.json` is not read"
    ]


@pytest.mark.parametrize(
    ("value", "told"),
    [({}, "holds dict"), ("text", "holds str"), ({"a": 1, "b": 2}, "holds dict of `a`, `b`")],
)
def test_json_without_rows_is_told(tmp_path, value, told):
    (tmp_path / "r.json").write_text(json.dumps(value))
    with pytest.raises(DataError, match=told):
        read_source(Source(path=str(tmp_path / "r.json")))


def json_table(tmp_path, text: str, name: str = "r.json"):
    (tmp_path / name).write_text(text)
    [table] = read_source(Source(path=str(tmp_path / name))).values()
    return table


def test_rows_of_pandas_split_that_do_not_fit_its_columns_are_malformed(tmp_path):
    data = [["a", "b"], ["a", "b", "more"], None, ["a"]]
    table = json_table(tmp_path, json.dumps({"columns": ["text", "label"], "data": data}))
    assert [values for _, values in table.rows] == [{"text": "a", "label": "b"}]
    assert [(bad.number, bad.kind) for bad in table.malformed] == [
        (2, "too many fields"), (3, "not a list of fields"), (4, "too few fields"),
    ]  # fmt: skip
    with pytest.raises(DataError, match="is not a list of names"):
        json_table(tmp_path, json.dumps({"columns": [["text"]], "data": data}))


def test_what_stands_beside_columns_is_named(tmp_path):
    columns = {name: [row[name] for row in ROWS] for name in ROWS[0]}
    table = json_table(tmp_path, json.dumps({"version": 1, "names": ["a"], **columns}))
    assert [values for _, values in table.rows] == ROWS
    assert table.notes == ("`version`, `names` in `r.json` are not read",)
    with pytest.raises(DataError, match="holds several lists of objects: `rows`, `features`"):
        json_table(tmp_path, json.dumps({"rows": ROWS, "features": ROWS}))


@pytest.mark.parametrize("last", ["", ","])
def test_objects_with_commas_after_them_are_rows(tmp_path, last):
    lines = ",\n".join(map(json.dumps, ROWS)) + last
    assert [v for _, v in json_table(tmp_path, lines, "r.jsonl").rows] == ROWS
    pretty = ",\n".join(json.dumps(row, indent=1) for row in ROWS) + last
    assert [v for _, v in json_table(tmp_path, pretty, "r.jsonl").rows] == ROWS
    [bad] = json_table(tmp_path, lines.rstrip(",") + ",\n{", "r.jsonl").malformed
    assert (bad.number, bad.kind) == (len(ROWS) + 1, "not JSON")


def test_rows_that_are_nested_too_deeply_or_are_no_json_are_named(tmp_path):
    deep = '{"text": ' + "[" * 900 + "]" * 900 + "}"
    table = json_table(tmp_path, f"{deep}\n{{'text': 'a'}}\n", "r.jsonl")
    assert [bad.kind for bad in table.malformed] == [
        "nested too deeply", "a dict of Python, not JSON",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("r.csv", "text:label\na:b\n", "give `--task.data.separator ':'`"),
        ("r.csv", "label^text\na^b\n", "give `--task.data.separator '^'`"),
        ("r.csv", "\ufeff\ufefftext,label\na,b\n", "add rows; begin with a few hundred"),
        ("r.parquet", "version https://git-lfs.github.com/spec/v1\n", "`git lfs pull`"),
        (
            "r.csv",
            "text,label\n" + "".join(f"{'ab'[n % 2]},text {n}\n" for n in range(20)),
            "right way round: `--task.data.text NAME`, `--task.data.label NAME`",
        ),
    ],
)
def test_the_hint_is_one_that_helps(tmp_path, name, text, told):
    (tmp_path / name).write_text(text)
    with pytest.raises(DataError) as error:
        ledger_of(tmp_path / name)
    assert told in error.value.hint


# --- what the ledger says


def ledger_of(path: Path, **fields):
    return load_splits(TextClassification(data=Data(path=str(path), **fields)), 0)[1]


def test_columns_of_text_that_nothing_reads_are_named_once(tmp_path):
    rows = [
        {**row, "title": f"title {row['text']}", "id": str(n)} for n, row in enumerate(ROWS * 4)
    ]
    rows = [{**row, "text": f"{row['text']} {n}"} for n, row in enumerate(rows)]
    (tmp_path / "r.json").write_text(json.dumps(rows))
    notes = [note for note in ledger_of(tmp_path / "r.json").notes if "reads" in note]
    assert notes == [f"nothing reads 1 text column of `{tmp_path / 'r.json'}`: `title`"]


def test_many_duplicates_are_told_and_lines_that_continue_a_row_counted(tmp_path):
    lines = ["text,label", *['"one\ntwo",a'] * 5, *[f"text {n},{'ab'[n % 2]}" for n in range(9)]]
    (tmp_path / "r.csv").write_text("\n".join(lines))
    ledger = ledger_of(tmp_path / "r.csv")
    assert any(note.startswith("29% of the rows") for note in ledger.notes) is False
    [read_counts] = ledger.read
    assert (read_counts.num_lines, read_counts.continued) == (20, [3, 5, 7, 9, 11])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "r.csv"
        path.write_text("\n".join([*lines, *['"one\ntwo",a'] * 3]))
        [told] = [note for note in ledger_of(path).notes if "repeat another" in note]
    assert told.startswith("41% of the rows")
