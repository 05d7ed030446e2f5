"""Reads rows from JSON and JSONL, in the shapes that common tools write.

A row may be an object on one line or over several lines. Rows may also be in a list, in a list
inside an object, stored as columns, or nested as in SQuAD. A file may hold several splits, each in
one of these shapes. The values of a row without names, such as `["a text", "a label"]`, get the
names in `UNNAMED`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.data.rows import Malformed, Table
from peftkit.data.squad import squad_rows
from peftkit.data.text_files import is_decoded
from peftkit.errors import DataError, quoted
from peftkit.parts.json_values import RepeatedName, unrepeated

UNNAMED = {2: ("text", "label"), 3: ("text", "text_pair", "label")}
"""Number of values in a row without names -> the names of its columns."""
SPLIT_KEYS = ("columns", "data", "index")
"""Keys of an object that pandas writes with `orient="split"`."""
SHOWN = 8


@dataclass(frozen=True)
class _Wrong:
    """Replaces a value that cannot be a row, such as an object that repeats a key: `json` alone
    would silently drop all but the last value of the key.
    """

    kind: str


def read_json(
    path: Path, text: str, split_names: Mapping[str, tuple[str, ...]]
) -> dict[str, Table]:
    """Returns the tables of a .json or .jsonl file: one called `all`, or one for each split.

    Args:
        split_names: split -> the names that files use for it.

    Raises:
        DataError: the file is not JSON, or has no shape that holds rows.
    """
    lines = path.suffix.lower() == ".jsonl" and text.lstrip()[:1] != "["
    if not lines:
        try:
            value = _loads(text)
        except (ValueError, RecursionError) as error:  # the message has the line and column
            if not str(error).startswith("Extra data"):
                raise DataError(f"`{path}` is not JSON: {error}", _pretty_hint(path)) from error
        else:
            return _tables(path, value, split_names)
    return {"all": _read_objects(path, text)}


def _loads(text: str) -> Any:
    return json.loads(text, object_pairs_hook=_object)


def _object(pairs: list[tuple[str, Any]]) -> Any:
    try:
        return unrepeated(pairs)
    except RepeatedName as error:
        return _Wrong(f"names `{error.name}` twice")


def _pretty_hint(path: Path) -> str:
    return f"`python -m json.tool {path}` shows the place"


def _read_objects(path: Path, text: str) -> Table:
    """Reads one object from each line. If a line is not JSON, tries objects over several lines."""
    objects: list[tuple[int, Any]] = []
    malformed: list[Malformed] = []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            objects.append((number, _loads(line.rstrip().removesuffix(","))))
        except (ValueError, RecursionError) as error:
            malformed.append(Malformed(number, _unread_line(line, error)))
    if malformed and (stream := _stream(text)) is not None:
        return _rows(path, stream, [], "line")
    return _rows(path, objects, malformed, "line")


def _unread_line(line: str, error: Exception) -> str:
    """Returns why a line is not read."""
    if isinstance(error, RecursionError):
        return "nested too deeply"
    if not isinstance(error, json.JSONDecodeError):  # Python's limit for whole numbers
        return "a number with too many digits"
    return "a dict of Python, not JSON" if line.lstrip().startswith("{'") else "not JSON"


def _stream(text: str) -> list[tuple[int, Any]] | None:
    """Returns (line number, value) of each JSON value in a text; None if the text holds anything
    else.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    values: list[tuple[int, Any]] = []
    at, line = 0, 1
    while at < len(text):
        if text[at].isspace() or (text[at] == "," and values):
            line += text[at] == "\n"
            at += 1
            continue
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        values.append((line, value))
        line += text.count("\n", at, end)
        at = end
    return values


def _tables(path: Path, value: Any, split_names: Mapping[str, tuple[str, ...]]) -> dict[str, Table]:
    """Returns the tables of a JSON document: one called `all`, or one for each split."""
    if isinstance(value, _Wrong):
        raise DataError(f"`{path}` {value.kind} in one object")
    if isinstance(value, dict) and (named := _splits(value, split_names)):
        notes = _unread([key for key in value if key not in named.values()], "", path)
        tables = {}
        for split, key in named.items():
            table = _table_of(path, value[key], f"`{key}` in ")
            tables[split] = replace(table, name=f"{path} {key}", notes=(*table.notes, *notes))
            notes = ()
        return tables
    if isinstance(value, dict) and len(value) == 1 and isinstance(inner := _only(value), dict):
        return _tables(path, inner, split_names)
    return {"all": _table_of(path, value, "")}


def _only(value: Mapping[str, Any]) -> Any:
    return next(iter(value.values()))


def _splits(value: Mapping[str, Any], split_names: Mapping[str, tuple[str, ...]]) -> dict[str, str]:
    """Returns split -> key of an object whose keys name splits; empty for other objects."""
    folded = {key.casefold(): key for key in value}
    named = {
        split: next(folded[name] for name in names if name in folded)
        for split, names in split_names.items()
        if not folded.keys().isdisjoint(names)
    }
    if "train" not in named or not all(isinstance(value[k], list | dict) for k in named.values()):
        return {}
    return named


def _table_of(path: Path, value: Any, where: str) -> Table:
    """Returns the table of a list or an object.

    Args:
        where: words for messages that say where the value is, such as `` `train` in ``.
    """
    if (questions := squad_rows(value)) is not None:
        return _rows(path, list(enumerate(questions, start=1)), [], "row")
    rows = value if isinstance(value, list) else None
    if isinstance(value, dict):
        rows = _rows_of_columns(value)
        if rows is not None:
            table = _rows(path, list(enumerate(rows, start=1)), [], "row")
            rest = [key for key in value if key not in (*SPLIT_KEYS, *table.columns)]
            return replace(table, notes=_unread(rest, where, path))
        lists = [key for key, item in value.items() if _holds(item, (dict, _Wrong))]
        if len(lists) > 1:
            raise DataError(
                f"{where}`{path}` holds several lists of objects: {quoted(lists, SHOWN)}",
                "keep the one with the rows",
            )
        if lists:
            table = _rows(path, list(enumerate(value[lists[0]], start=1)), [], "row")
            rest = [key for key in value if key != lists[0]]
            note = f"the rows are {where}`{lists[0]}` in `{path.name}`"
            return replace(table, notes=(note, *_unread(rest, where, path)))
        if len(value) > 1 and all(isinstance(v, dict) for v in value.values()):
            rows = list(value.values())
    if rows is not None:
        return _rows(path, list(enumerate(rows, start=1)), [], "row")
    keys = f" of {quoted(value, SHOWN)}" if isinstance(value, dict) and value else ""
    raise DataError(
        f"{where}`{path}` holds {type(value).__name__}{keys}, not a list of objects",
        "write the rows as `[{...}, {...}]`, or as JSONL, one object on each line",
    )


def _unread(keys: Sequence[str], where: str, path: Path) -> tuple[str, ...]:
    """Returns a note that the keys of an object are not read; empty if there are no keys."""
    are = "is" if len(keys) == 1 else "are"
    note = f"{quoted(keys, SHOWN)} {where or 'in '}`{path.name}` {are} not read"
    return (note,) if keys else ()


def _rows_of_columns(value: dict[str, Any]) -> list[Any] | None:
    """Returns the rows of an object that stores them as columns; None for other objects."""
    columns = value
    if "columns" in value and _holds(value.get("data"), list):  # pandas' orient="split"
        return _rows_of_split(value["columns"], value["data"])
    if all(isinstance(column, dict) for column in value.values()):  # pandas' orient="columns"
        keys = [list(column) for column in value.values()]
        if not keys or not keys[0] or any(k != keys[0] for k in keys):
            return None
        if not all(key.isdigit() for key in keys[0]):
            return None
        columns = {name: list(column.values()) for name, column in value.items()}
    lists = {name: column for name, column in columns.items() if isinstance(column, list)}
    longest = max(map(len, lists.values()), default=0)  # the others are metadata
    columns = {name: column for name, column in lists.items() if len(column) == longest}
    if len(columns) < 2 or not longest:
        return None
    if any(isinstance(column[0], dict | _Wrong) for column in columns.values()):
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _rows_of_split(columns: Any, data: list[Any]) -> list[Any]:
    """Returns the rows of pandas' `orient="split"`; each must have one value per column."""
    if not isinstance(columns, list) or not all(isinstance(name, str) for name in columns):
        raise DataError("`columns` is not a list of names", "write the rows as `[{...}, {...}]`")
    rows: list[Any] = []
    for row in data:
        if not isinstance(row, list):
            rows.append(_Wrong("not a list of fields"))
        elif len(row) != len(columns):
            rows.append(_Wrong(f"too {'few' if len(row) < len(columns) else 'many'} fields"))
        else:
            rows.append(dict(zip(columns, row, strict=True)))
    return rows


def _holds(value: Any, kind: type[Any] | tuple[type[Any], ...]) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _rows(
    path: Path, values: list[tuple[int, Any]], malformed: list[Malformed], unit: str
) -> Table:
    """Makes a table of numbered values; values that are not rows count as malformed."""
    rows: list[tuple[int, dict[str, Any]]] = []
    columns: dict[str, None] = {}
    name_row = _naming([value for _, value in values])
    for number, unnamed in values:
        value = name_row(unnamed)
        if kind := _wrong(value):
            malformed.append(Malformed(number, kind))
        else:
            rows.append((number, value))
            columns.update(dict.fromkeys(value))
    malformed.sort(key=lambda row: row.number)
    return Table(str(path), tuple(columns), tuple(rows), tuple(malformed), unit)


def _naming(values: list[Any]) -> Callable[[Any], Any]:
    """Returns a function that names the items of a list as in `UNNAMED`, if all values are lists of
    two items or all are lists of three. Otherwise the function returns values unchanged.
    """
    widths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(widths) != 1 or not widths <= UNNAMED.keys():
        return lambda value: value
    columns = UNNAMED[widths.pop()]
    return lambda value: dict(zip(columns, value, strict=True))


def _wrong(value: Any) -> str:
    """Returns why a value cannot be a row; empty if it can."""
    try:
        if kind := _wrong_inside(value):
            return kind
        if not isinstance(value, dict):
            return "not an object"
        return "" if is_decoded(json.dumps(value, ensure_ascii=False)) else "not UTF-8"
    except RecursionError:
        return "nested too deeply"


def _wrong_inside(value: Any) -> str:
    """Returns what is wrong with a value or with values inside it; empty if nothing is."""
    if isinstance(value, _Wrong):
        return value.kind
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((kind for item in inner if (kind := _wrong_inside(item))), "")
