"""JSON and JSONL: rows as objects, in the shapes that tools write.

Rows stand on a line each, over several lines, in a list, in a list inside of one object, or as
columns; a file may hold several splits, each in one of these shapes. Rows without names, such as
`["a text", "a label"]`, are `text`, `text_pair` where there are three, and `label`.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from peftkit.data.rows import Malformed, Table
from peftkit.data.text_files import is_clean
from peftkit.errors import DataError, quoted
from peftkit.parts import RepeatedName, unrepeated

UNNAMED = {2: ("text", "label"), 3: ("text", "text_pair", "label")}
"""Width of a row without names -> its columns."""
SHOWN = 8


@dataclass(frozen=True)
class _Twice:
    """Stands for an object that names a key more than once, of which the last would win."""

    key: str


def read_json(
    path: Path, text: str, split_names: Mapping[str, tuple[str, ...]]
) -> dict[str, Table]:
    """The tables of a file that ends in .json or .jsonl: `all`, or one for each split.

    Args:
        split_names: split -> the names that files have for it.

    Raises:
        DataError: it is not JSON, or in no shape that holds rows.
    """
    lines = path.suffix.lower() == ".jsonl" and text.lstrip()[:1] != "["
    if not lines:
        try:
            value = _loads(text)
        except (ValueError, RecursionError) as error:  # its text has the line and column
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
        return _Twice(error.name)


def _pretty_hint(path: Path) -> str:
    return f"`python -m json.tool {path}` shows the place"


def _read_objects(path: Path, text: str) -> Table:
    """An object on each line; or objects over several lines, if they are all whole."""
    objects: list[tuple[int, Any]] = []
    malformed: list[Malformed] = []
    for number, line in enumerate(io.StringIO(text), start=1):
        if not line.strip():
            continue
        try:
            objects.append((number, _loads(line)))
        except (ValueError, RecursionError):  # also numbers and nesting beyond Python's limits
            malformed.append(Malformed(number, "not JSON"))
    if malformed and (stream := _stream(text)) is not None:
        return _rows(path, stream, [], "line")
    return _rows(path, objects, malformed, "line")


def _stream(text: str) -> list[tuple[int, Any]] | None:
    """The values that stand one after the other in a text, each with its line; None if there is
    anything else.
    """
    decoder = json.JSONDecoder(object_pairs_hook=_object)
    found: list[tuple[int, Any]] = []
    at, line = 0, 1
    while at < len(text):
        if text[at].isspace():
            line += text[at] == "\n"
            at += 1
            continue
        try:
            value, end = decoder.raw_decode(text, at)
        except (ValueError, RecursionError):
            return None
        found.append((line, value))
        line += text.count("\n", at, end)
        at = end
    return found


def _tables(path: Path, value: Any, split_names: Mapping[str, tuple[str, ...]]) -> dict[str, Table]:
    """The tables in a whole JSON document."""
    if isinstance(value, _Twice):
        raise DataError(f"`{path}` names `{value.key}` twice in one object")
    if isinstance(value, dict) and (named := _splits(value, split_names)):
        rest = [key for key in value if key not in named.values()]
        is_read = "is not read" if len(rest) == 1 else "are not read"
        notes = (f"{quoted(rest, SHOWN)} in `{path.name}` {is_read}",) if rest else ()
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
    """Split -> key, where an object's keys are splits; empty where they are something else."""
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
    """The table of a list or an object.

    Args:
        where: of the value, for messages.
    """
    rows = value if isinstance(value, list) else None
    if isinstance(value, dict):
        rows = _of_columns(value)
        lists = [key for key, item in value.items() if _holds(item, (dict, _Twice))]
        if rows is None and len(lists) == 1:
            table = _rows(path, list(enumerate(value[lists[0]], start=1)), [], "row")
            rest = [key for key in value if key != lists[0]]
            told = f"; {quoted(rest, SHOWN)} is not read" if rest else ""
            note = f"the rows are {where}`{lists[0]}` in `{path.name}`{told}"
            return replace(table, notes=(note,))
        if rows is None and len(value) > 1 and all(isinstance(v, dict) for v in value.values()):
            rows = list(value.values())
    if rows is not None:
        return _rows(path, list(enumerate(rows, start=1)), [], "row")
    keys = f" of {quoted(value, SHOWN)}" if isinstance(value, dict) and value else ""
    raise DataError(
        f"{where}`{path}` holds {type(value).__name__}{keys}, not a list of objects",
        "write the rows as `[{...}, {...}]`, or as JSONL, one object on each line",
    )


def _of_columns(value: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The rows of an object that holds columns; None if it holds something else."""
    columns = value
    if "columns" in value and _holds(value.get("data"), list):  # pandas' orient="split"
        return [dict(zip(value["columns"], row, strict=False)) for row in value["data"]]
    if all(isinstance(column, dict) for column in value.values()):  # pandas' orient="columns"
        keys = [list(column) for column in value.values()]
        if not keys or not keys[0] or any(k != keys[0] for k in keys):
            return None
        if not all(key.isdigit() for key in keys[0]):
            return None
        columns = {name: list(column.values()) for name, column in value.items()}
    same = {len(column) if isinstance(column, list) else -1 for column in columns.values()}
    if len(columns) < 2 or len(same) != 1 or same <= {0, -1}:
        return None
    if any(isinstance(column[0], dict | _Twice) for column in columns.values()):
        return None
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _holds(value: Any, kind: type[Any] | tuple[type[Any], ...]) -> bool:
    return isinstance(value, list) and bool(value) and isinstance(value[0], kind)


def _rows(
    path: Path, values: list[tuple[int, Any]], malformed: list[Malformed], unit: str
) -> Table:
    """The table of these values, each with its number."""
    rows: list[tuple[int, dict[str, Any]]] = []
    columns: dict[str, None] = {}
    name_row = _naming([value for _, value in values])
    for number, given in values:
        value = name_row(given)
        if key := _repeated(value):
            malformed.append(Malformed(number, f"names `{key}` twice"))
        elif not isinstance(value, dict):
            malformed.append(Malformed(number, "not an object"))
        elif not is_clean(json.dumps(value, ensure_ascii=False)):
            malformed.append(Malformed(number, "not UTF-8"))
        else:
            rows.append((number, value))
            columns.update(dict.fromkeys(value))
    malformed.sort(key=lambda row: row.number)
    return Table(str(path), tuple(columns), tuple(rows), tuple(malformed), unit)


def _naming(values: list[Any]) -> Callable[[Any], Any]:
    """How a value becomes a row: lists of two or three get names, if all of them are such."""
    widths = {len(value) if isinstance(value, list) else 0 for value in values}
    if len(widths) != 1 or not widths <= UNNAMED.keys():
        return lambda value: value
    columns = UNNAMED[widths.pop()]
    return lambda value: dict(zip(columns, value, strict=True))


def _repeated(value: Any) -> str:
    """A key that an object in a value names twice; empty if none does."""
    if isinstance(value, _Twice):
        return value.key
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return next((key for item in inner if (key := _repeated(item))), "")
