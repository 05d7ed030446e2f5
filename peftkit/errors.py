"""Every error that peftkit raises on purpose.

    PeftkitError
    ├── RecipeError           a recipe, or an override of it, is wrong
    ├── DataError             a file or a row is wrong
    ├── BaseModelError        a base cannot be found, trusted or used for this task
    │   └── UnreachableError      the Hub cannot be reached now
    ├── MethodError           a method does not fit this model
    ├── TrainingError         training had to stop (exit code 1: the input was fine)
    │   └── OutOfMemoryError      memory ran out
    ├── Interrupted           a signal ended the run (exit code 130 or 143)
    ├── AdapterError          a saved adapter is damaged, or does not fit
    ├── OutputError           the output folder or file cannot be used
    └── MissingPackageError   an optional package is not installed

An error says what is wrong and what was found; its hint says what to do.
"""

from __future__ import annotations

import difflib
import signal
from collections.abc import Iterable
from pathlib import Path


class PeftkitError(Exception):
    """An error with a message for the user and, if there is one, a hint."""

    exit_code = 2

    def __init__(self, message: str, hint: str = "", missing: Path | None = None) -> None:
        """Makes an error from a message and a hint.

        Args:
            missing: the file or folder that was not found.
        """
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.missing = missing

    def __str__(self) -> str:
        """Returns the text to print: `error: ...`, and any `hint: ...` after a blank line."""
        text = f"error: {self.message}"
        return f"{text}\n\nhint: {self.hint}" if self.hint else text


class RecipeError(PeftkitError):
    """A recipe, or an override of it, is wrong."""


class DataError(PeftkitError):
    """A file or a row is wrong."""


class BaseModelError(PeftkitError):
    """A base cannot be found, trusted or used for this task."""


class UnreachableError(BaseModelError):
    """The base cannot be downloaded from the Hub now; its name in the recipe may be right."""


class MethodError(PeftkitError):
    """A method does not fit this model."""


class TrainingError(PeftkitError):
    """Training had to stop."""

    exit_code = 1


class OutOfMemoryError(TrainingError):
    """Memory ran out; a later try may succeed."""


class Interrupted(PeftkitError):
    """A signal ended the run; the message says what was saved."""

    def __init__(self, message: str, hint: str = "", exit_code: int = 130) -> None:
        super().__init__(message, hint)
        self.exit_code = exit_code


SIGNAL_BASE = 128
"""Offset of exit codes: a program ended by signal `n` exits with 128 + `n`."""


def exit_code(raised: BaseException) -> int:
    """Returns the exit code for the KeyboardInterrupt or SystemExit that a signal raised."""
    code = raised.code if isinstance(raised, SystemExit) else SIGNAL_BASE + signal.SIGINT
    return code if isinstance(code, int) else 1


class AdapterError(PeftkitError):
    """A saved adapter is damaged, or does not fit."""


class OutputError(PeftkitError):
    """The output folder or file cannot be used."""


class MissingPackageError(PeftkitError):
    """An optional package is not installed; the hint is the command that installs it."""


def did_you_mean(name: str, candidates: Iterable[str]) -> str:
    """Returns `did you mean `x`?` with the most similar candidate; empty if none is similar."""
    folded = {candidate.casefold(): candidate for candidate in candidates}
    close = [candidate for candidate in folded if candidate.startswith(name.casefold())]
    if len(name) < 3 or len(close) != 1:  # `relation` is the beginning of `RelationExtraction`
        close = difflib.get_close_matches(name.casefold(), list(folded), n=1, cutoff=0.6)
    if not close and len(name) > 1:  # `f1` for `macro_f1`
        close = [candidate for candidate in folded if name.casefold() in candidate.split("_")]
    return f"did you mean `{folded[close[0]]}`?" if close else ""


def did_you_mean_file(path: Path) -> str:
    """Suggests a similar file in the folder of a missing path; empty if none is similar."""
    siblings = path.parent.iterdir() if path.parent.is_dir() else ()
    return did_you_mean(path.name, (sibling.name for sibling in siblings))


def not_found(path: Path) -> str:
    """Returns the hint for a missing path: the folder searched, and the most similar name."""
    guess = did_you_mean_file(path)
    where = "" if path.is_absolute() else f"it was looked for in `{Path.cwd()}`"
    return "; ".join(filter(None, (where, guess)))


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message; the error's type if the message is empty."""
    return str(error).strip().split("\n")[0].rstrip(".") or type(error).__name__


def quoted(names: Iterable[str], limit: int = 12) -> str:
    """Returns names as `` `a`, `b`, `c` ``; after `limit` names, only the number of the others."""
    listed = list(names)
    shown = ", ".join(f"`{name}`" for name in listed[:limit])
    return f"{shown} and {len(listed) - limit} more" if len(listed) > limit else shown
