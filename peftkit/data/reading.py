"""Reads rows from files, folders, the Hub and packages, and says what it could not read.

CSV and JSON are read with the standard library, because a row that is wrong must be reported
by its line, and not end the reading of the others.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from peftkit.data.rows import Malformed, Table
from peftkit.data.source import Source
from peftkit.errors import DataError, did_you_mean, did_you_mean_file, first_line, quoted
from peftkit.packaged import DATA, PREFIX, find_packaged

SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet")
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
MAX_FIELD = 2**31 - 1


def read_source(source: Source) -> dict[str, Table]:
    """The tables of a source: `{"all": table}`, or one for each split that it gives.

    Raises:
        DataError: nothing is there, it is empty, or it is not what its ending says.
        MissingPackageError: a `packaged:` data set whose package is not installed.
    """
    tables = _read(source)
    if empty := [t.name for t in tables.values() if not t.rows and not t.malformed]:
        raise DataError(f"{quoted(empty)} has no rows")
    return tables


def _read(source: Source) -> dict[str, Table]:
    if source.path.startswith(PREFIX):
        return {"all": _read_packaged(source)}
    path = Path(source.path).expanduser()
    if path.is_file():
        return {"all": read_file(path)}
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _read_saved_dataset(path)
    if path.is_dir():
        return _read_folder(path)
    looks_local = source.path.startswith(("/", "./", "../", "~")) or path.suffix in SUFFIXES
    if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source.path):
        raise DataError(f"no file or folder `{source.path}`", did_you_mean_file(path))
    return _read_hub(source)


def read_file(path: Path) -> Table:
    """One file, read as its ending says: `.csv`, `.tsv`, `.json`, `.jsonl` or `.parquet`."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        raise DataError(
            f"`{path}` ends in `{path.suffix}`; peftkit reads {', '.join(SUFFIXES)}",
            "convert it, for example with pandas' `to_csv`",
        )
    if path.stat().st_size == 0:
        raise DataError(f"`{path}` is empty (0 bytes)")
    if suffix == ".parquet":
        return _read_parquet(path)
    text = _decode(path)
    if suffix == ".json":
        return _read_json(path, text)
    if suffix == ".jsonl":
        return _read_jsonl(path, text)
    return _read_csv(path, text, "\t" if suffix == ".tsv" else ",")


def _decode(path: Path) -> str:
    """The file's text; bytes that are not UTF-8 stay recognisable, so that their rows are told."""
    raw = path.read_bytes()
    if raw[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DataError(f"`{path}` is UTF-16", f"convert it: `iconv -f UTF-16 -t UTF-8 {path}`")
    return raw.decode("utf-8-sig", errors="surrogateescape")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _read_csv(path: Path, text: str, delimiter: str) -> Table:
    limit = csv.field_size_limit(MAX_FIELD)  # a process-wide setting, so it is put back
    try:
        return _parse_csv(path, text, delimiter)
    finally:
        csv.field_size_limit(limit)


def _parse_csv(path: Path, text: str, delimiter: str) -> Table:
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    columns: tuple[str, ...] = ()
    rows: list[tuple[int, dict[str, str]]] = []
    malformed: list[Malformed] = []
    while True:
        number = reader.line_num + 1
        try:
            fields = next(reader, None)
        except csv.Error as error:
            if "unexpected end of data" in str(error):
                raise DataError(
                    f"`{path}`: the quote that opens in the row at line {number} is never closed",
                    'double a quote inside a quoted field (`""`), or write the file as JSONL',
                ) from error
            kind = "stray quote" if "expected after" in str(error) else str(error)
            if not columns:
                raise DataError(f"`{path}`: the header cannot be read: {kind}") from error
            malformed.append(Malformed(number, kind))
            continue
        if fields is None:
            break
        if not columns:
            columns = _header(path, fields)
        elif not "".join(fields).strip() and len(fields) < 2:
            continue  # blank line
        elif len(fields) != len(columns):
            kind = "too few fields" if len(fields) < len(columns) else "too many fields"
            malformed.append(Malformed(number, kind))
        elif not all(map(_is_utf8, fields)):
            malformed.append(Malformed(number, "not UTF-8"))
        else:
            rows.append((number, dict(zip(columns, fields, strict=True))))
    return Table(str(path), columns, tuple(rows), tuple(malformed), "line")


def _header(path: Path, fields: list[str]) -> tuple[str, ...]:
    columns = tuple(name.strip() for name in fields)
    if not all(map(_is_utf8, columns)):
        raise DataError(f"`{path}`: the header cannot be read: not UTF-8")
    if len(columns) == 1 and (found := next((d for d in ";|\t" if d in columns[0]), "")):
        raise DataError(
            f"`{path}`: the header `{columns[0]}` seems to be separated by {found!r}",
            "peftkit reads commas in .csv and tabs in .tsv",
        )
    if (unnamed := columns.count("")) > 1:  # one is the index that pandas writes
        raise DataError(
            f"`{path}`: {unnamed} of the header's {len(columns)} columns have no name",
            "name them, or take out commas at the end of the lines",
        )
    if repeated := {name for name in columns if columns.count(name) > 1}:
        raise DataError(f"`{path}`: the header names {quoted(sorted(repeated))} more than once")
    return columns


def _read_jsonl(path: Path, text: str) -> Table:
    objects: list[tuple[int, Any]] = []
    malformed: list[Malformed] = []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            objects.append((number, json.loads(line)))
        except (ValueError, RecursionError):  # also numbers and nesting beyond Python's limits
            malformed.append(Malformed(number, "not JSON"))
    return _table_of_objects(path, objects, malformed, "line")


def _read_json(path: Path, text: str) -> Table:
    """A list of objects; or, as many tools write it, an object on each line."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:  # its text has the line and column
        if str(error).startswith("Extra data"):
            return _read_jsonl(path, text)
        raise DataError(f"`{path}` is not JSON: {error}") from error
    if not isinstance(values, list):
        raise DataError(
            f"`{path}` holds {type(values).__name__}, not a list of objects",
            "write the rows as `[{...}, {...}]`, or as JSONL, one object on each line",
        )
    return _table_of_objects(path, list(enumerate(values, start=1)), [], "row")


def _table_of_objects(
    path: Path, objects: list[tuple[int, Any]], malformed: list[Malformed], unit: str
) -> Table:
    rows: list[tuple[int, dict[str, Any]]] = []
    columns: dict[str, None] = {}
    for number, value in objects:
        if not isinstance(value, dict):
            malformed.append(Malformed(number, "not an object"))
        elif not _is_utf8(json.dumps(value, ensure_ascii=False)):
            malformed.append(Malformed(number, "not UTF-8"))
        else:
            rows.append((number, value))
            columns.update(dict.fromkeys(value))
    malformed.sort(key=lambda row: row.number)
    return Table(str(path), tuple(columns), tuple(rows), tuple(malformed), unit)


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"`{path}` cannot be read as Parquet: {error}") from error
    rows = tuple(enumerate(table.to_pylist(), start=1))
    return Table(str(path), tuple(table.column_names), rows)


def _read_folder(path: Path) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for split, names in SPLIT_NAMES.items():
        files = [p for p in sorted(path.iterdir()) if p.stem in names and p.suffix in SUFFIXES]
        if len(files) > 1:
            raise DataError(f"`{path}` has several {split} files: {quoted(p.name for p in files)}")
        if files:
            tables[split] = read_file(files[0])
    if "train" not in tables:
        found = sorted(p.name for p in path.iterdir())
        raise DataError(
            f"the folder `{path}` has no train file; it has {quoted(found) or 'nothing'}",
            "name its files train, validation and test, with endings " + ", ".join(SUFFIXES),
        )
    return tables


def _read_packaged(source: Source) -> Table:
    entry, path = find_packaged(source.path, DATA)
    table = read_file(path)
    subsets = sorted({str(values[entry.subset_column]) for _, values in table.rows})
    if source.subset and source.subset not in subsets:
        raise DataError(
            f"`{source.path}` has no subset `{source.subset}`; it has {quoted(subsets)}",
            did_you_mean(source.subset, subsets),
        )
    rows = tuple(
        (number, values)
        for number, values in table.rows
        if source.subset in ("", values[entry.subset_column])
    )
    return Table(
        name=" ".join(filter(None, (source.path, source.subset))),
        columns=table.columns,
        rows=rows,
        unit=table.unit,
        label_names={"label": dict(entry.label_names)},
    )


def _read_saved_dataset(path: Path) -> dict[str, Table]:
    import datasets

    return _tables_of(datasets.load_from_disk(path), str(path))


def _read_hub(source: Source) -> dict[str, Table]:
    import datasets

    try:
        loaded = datasets.load_dataset(
            source.path, source.subset or None, revision=source.revision or None
        )
    except Exception as error:  # datasets raises what its many back ends raise
        raise DataError(
            f"`{source.path}` is no local file, and the Hub does not give it: {first_line(error)}",
            did_you_mean_file(Path(source.path))
            or "check the id and the network, or give a local file",
        ) from error
    return _tables_of(loaded, source.path)


def _tables_of(loaded: Any, name: str) -> dict[str, Table]:
    """Tables of a `datasets.DatasetDict` or `Dataset`."""
    splits = dict(loaded) if isinstance(loaded, Mapping) else {"all": loaded}
    known = {
        split: next(splits[name] for name in names if name in splits)
        for split, names in SPLIT_NAMES.items()
        if not splits.keys().isdisjoint(names)
    }
    if not known and len(splits) == 1:
        known = {"all": next(iter(splits.values()))}
    if not known.keys() & {"train", "all"}:
        raise DataError(f"`{name}` has the splits {quoted(splits)}, and none is `train`")
    if set(known) == {"train"}:
        known = {"all": known["train"]}
    return {split: _table_of(data, f"{name} {split}") for split, data in known.items()}


def _table_of(data: Any, name: str) -> Table:
    label_names = {
        column: {str(index): label for index, label in enumerate(feature.names)}
        for column, feature in data.features.items()
        if hasattr(feature, "names") and isinstance(feature.names, list)
    }
    rows = tuple(enumerate(data, start=1))
    return Table(name, tuple(data.column_names), rows, label_names=label_names)
