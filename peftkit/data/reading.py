"""Reads rows from files, folders, the Hub and packages, and reports rows that it cannot read.

Text files are read with the standard library (delimited.py, json_rows.py, conll.py,
marked_sentences.py), so that a malformed row is reported with its line, and all other rows are
read.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from peftkit.data.conll import looks_like_conll, read_conll
from peftkit.data.delimited import read_delimited
from peftkit.data.intent_templates import read_intent_templates
from peftkit.data.json_rows import read_json
from peftkit.data.marked_sentences import looks_like_marked_sentences, read_marked_sentences
from peftkit.data.messages import read_messages
from peftkit.data.packaged import DATA, PREFIX, Packaged, find_packaged
from peftkit.data.paper_summaries import paper_summaries
from peftkit.data.parallel_lines import read_parallel_lines
from peftkit.data.ranked_passages import ranked_passages
from peftkit.data.review_scores import review_scores
from peftkit.data.rows import Table
from peftkit.data.source import Source
from peftkit.data.text_files import EXCEL, read_text, refuse_other_kinds
from peftkit.errors import DataError, did_you_mean, did_you_mean_file, first_line, not_found, quoted

TAGGED = (".conll", ".bio", ".iob", ".iob2", ".txt")
"""File endings of words with tags, one word a line; a .txt or .tsv file may also have marked
sentences."""
SUFFIXES = (".csv", ".tsv", ".json", ".jsonl", ".parquet", *TAGGED)
SPLIT_NAMES = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test", "testing"),
}
WORKBOOKS = {
    ".xlsx": ("is an Excel workbook", EXCEL),
    ".xlsm": ("is an Excel workbook", EXCEL),
    ".xls": ("is an old Excel workbook", EXCEL.replace("openpyxl", "xlrd")),
    ".ods": ("is a spreadsheet", EXCEL.replace("openpyxl", "odfpy")),
}
"""File ending -> (what the file is, how to convert it)."""


def read_source(source: Source) -> dict[str, Table]:
    """Reads the tables of a source: one called `all`, or one for each split in the source.

    Raises:
        DataError: the source does not exist, is empty, or is not what its ending says.
        MissingPackageError: the package of a `packaged:` data set is not installed.
    """
    tables = _read(source)
    if empty := [t.name for t in tables.values() if not t.rows and not t.malformed]:
        raise DataError(f"{quoted(empty)} has no rows", "give a file with rows")
    return tables


def _read(source: Source) -> dict[str, Table]:
    if source.path.startswith(PREFIX):
        return _read_packaged(source)
    path = Path(source.path).expanduser()
    if (other := source.parallel) is not None:
        second = Path(other.path).expanduser()
        return {"all": read_parallel_lines(path, second, other.columns, source.encoding)}
    if path.is_file():
        return _read_splits(path, source)
    if (path / "dataset_dict.json").is_file() or (path / "dataset_info.json").is_file():
        return _read_saved_dataset(path)
    if path.is_dir():
        return _read_folder(path, source)
    looks_local = source.path.startswith(("/", "./", "../", "~")) or path.suffix in SUFFIXES
    if looks_local or not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", source.path):
        raise DataError(f"no file or folder `{source.path}`", not_found(path), missing=path)
    return _read_hub(source)


def read_file(path: Path, source: Source | None = None) -> Table:
    """Reads one file by its ending, one of `SUFFIXES`.

    Args:
        source: the recipe's source, which may set the encoding and separator; None for defaults.

    Raises:
        DataError: the file cannot be read, or holds several splits.
    """
    tables = _read_splits(path, source)
    if set(tables) != {"all"}:
        raise DataError(
            f"`{path}` holds the splits {quoted(tables)}, where rows are expected",
            "give one file for each split",
        )
    return tables["all"]


def _read_splits(path: Path, source: Source | None) -> dict[str, Table]:
    """Returns the tables of one file: one called `all`, or one for each split in the file."""
    suffix = path.suffix.lower()
    if suffix not in SUFFIXES:
        what, hint = WORKBOOKS.get(suffix, ("", "convert it, for example with pandas' `to_csv`"))
        raise DataError(
            f"`{path}` {what or f'ends in `{path.suffix}`'}; peftkit reads {', '.join(SUFFIXES)}",
            hint.format(path=path, stem=path.with_suffix("")),
        )
    if path.stat().st_size == 0:
        raise DataError(f"`{path}` is empty (0 bytes)", "give a file with rows")
    if suffix == ".parquet":
        return {"all": _read_parquet(path)}
    read = read_text(path, source.encoding if source else "")
    if suffix in (".json", ".jsonl"):
        return read_json(path, read.text, SPLIT_NAMES)
    separator = source.separator if source else ""
    separator = "\t" if separator == "tab" else separator
    if suffix in (".tsv", ".txt") and looks_like_marked_sentences(read.text):
        return {"all": read_marked_sentences(path, read.text, read.encoding)}
    if suffix in TAGGED or (suffix == ".tsv" and looks_like_conll(read.text)):
        if suffix == ".txt" and not looks_like_conll(read.text):
            raise DataError(
                f"`{path}` has neither words with tags, one word a line, nor numbered sentences "
                "with `<e1>` and `<e2>`",
                "give texts as .csv or .jsonl; name a file of tagged words .conll",
            )
        return {"all": read_conll(path, read.text, read.encoding, separator)}
    return {"all": read_delimited(path, read.text, read.encoding, separator)}


def _read_parquet(path: Path) -> Table:
    import pyarrow
    import pyarrow.parquet

    with path.open("rb") as file:
        refuse_other_kinds(path, file.read(64))
    try:
        table = pyarrow.parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise DataError(f"`{path}` cannot be read as Parquet: {error}") from error
    rows = tuple(enumerate(table.to_pylist(), start=1))
    return Table(str(path), tuple(table.column_names), rows)


def _read_folder(path: Path, source: Source) -> dict[str, Table]:
    tables: dict[str, Table] = {}
    for split, names in SPLIT_NAMES.items():
        files = [p for p in sorted(path.iterdir()) if p.stem in names and p.suffix in SUFFIXES]
        files = [file for file in files if file.suffix != ".txt"] or files  # notes, perhaps
        if len(files) > 1:
            raise DataError(f"`{path}` has several {split} files: {quoted(p.name for p in files)}")
        if files:
            tables[split] = read_file(files[0], source)
    if "train" not in tables:
        present = sorted(p.name for p in path.iterdir())
        raise DataError(
            f"the folder `{path}` has no train file; it has {quoted(present) or 'nothing'}",
            "name its files train, validation and test, with endings " + ", ".join(SUFFIXES),
        )
    return tables


def _read_packaged(source: Source) -> dict[str, Table]:
    entry, path = find_packaged(source.path, DATA, source.subset)
    if entry.rows == "paper_summaries":
        return _of_aspect(_read_folder(path, source), source)
    return {"all": _packaged_table(entry, path, source)}


def _packaged_table(entry: Packaged, path: Path, source: Source) -> Table:
    if entry.rows == "messages":
        files = sorted(path.glob(entry.checked.format(subset=source.subset)))
        return read_messages(files, f"{source.path} {source.subset}")
    if entry.rows == "intent_templates":
        return read_intent_templates(path, source.subset, source.path, source.group, entry.install)
    table = _subset(read_file(path), entry, source)
    if entry.rows == "ranked_passages":
        return ranked_passages(table, source.group)
    return review_scores(table) if entry.rows == "review_scores" else table


def _of_aspect(papers: Mapping[str, Table], source: Source) -> dict[str, Table]:
    """Returns the rows of the aspect that is the source's subset, or of all."""
    aspects = sorted({name for table in papers.values() for _, row in table.rows
                      for name in row["summary"]})  # fmt: skip
    _check_subset(source, aspects)
    named = {split: replace(table, name=source.path) for split, table in papers.items()}
    return paper_summaries(named, source.subset)


def _check_subset(source: Source, subsets: Sequence[str]) -> None:
    if source.subset and source.subset not in subsets:
        raise DataError(
            f"`{source.path}` has no subset `{source.subset}`; it has {quoted(subsets)}",
            did_you_mean(source.subset, subsets),
        )


def _subset(table: Table, entry: Packaged, source: Source) -> Table:
    """Returns the rows of the source's subset."""
    if entry.subsets:  # each has its own file
        return replace(table, name=f"{source.path} {source.subset}")
    subsets = sorted({str(values[entry.subset_column]) for _, values in table.rows})
    _check_subset(source, subsets)
    rows = tuple(
        (number, values)
        for number, values in table.rows
        if source.subset in ("", values[entry.subset_column])
    )
    chosen = entry.subset_column if source.subset else ""  # the same in all rows
    return Table(
        name=" ".join(filter(None, (source.path, source.subset))),
        columns=tuple(column for column in table.columns if column != chosen),
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
            f"`{source.path}` is not a local file, and cannot be loaded from the Hub: "
            f"{first_line(error)}",
            did_you_mean_file(Path(source.path))
            or "check the id and the network, or give a local file",
        ) from error
    return _tables_of(loaded, source.path)


def _tables_of(loaded: Any, name: str) -> dict[str, Table]:
    """Returns the tables of a `datasets.DatasetDict` or `Dataset`."""
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
    features = {
        name: getattr(one, "feature", one) for name, one in data.features.items()
    }  # of lists
    label_names = {
        column: {str(index): label for index, label in enumerate(feature.names)}
        for column, feature in features.items()
        if hasattr(feature, "names") and isinstance(feature.names, list)
    }
    rows = tuple(enumerate(data, start=1))
    return Table(name, tuple(data.column_names), rows, label_names=label_names)
