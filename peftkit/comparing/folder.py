"""Where a comparison lies: each finished part a file of its own, so that it can be gone on with."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from peftkit.errors import OutputError
from peftkit.output import is_empty_folder, why_not_writable, write_json
from peftkit.parts import differences

GRID = "grid.json"
LOCK = ".lock"
SHOWN = 40
"""Characters of a value that an error shows."""


@dataclass(frozen=True)
class ComparisonFolder:
    """The files of one comparison.

    grid.json               base, data, device and versions: the same for all parts
    recipes/NAME.json       what each contender's runs are made from
    trials/NAME/rate-*.json what a learning rate gave
    trials/NAME/seed-*.json what a run gave; the run itself lies in the folder of that name
    compare.json, .html, .md
    """

    path: Path

    def file_of(self, part: str) -> Path:
        """Where it is kept what a part gave."""
        return self.path / "trials" / f"{part}.json"

    def done(self, part: str) -> dict[str, Any] | None:
        """What a finished part gave, or None."""
        file = self.file_of(part)
        if not file.is_file():
            return None
        found: dict[str, Any] = _read(file)
        return found

    def run_folder(self, part: str) -> Path:
        """Where a part's own files go."""
        return self.path / "trials" / part

    def finish(self, part: str, make: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """Does a part anew, from an empty place, and keeps what it gives.

        Args:
            make: does it, with the folder for its files, which does not exist.
        """
        folder = self.run_folder(part)
        shutil.rmtree(folder, ignore_errors=True)  # of a part that was broken off
        folder.parent.mkdir(parents=True, exist_ok=True)
        found = make(folder)
        _replace(self.file_of(part), found)
        return found

    def write(self, name: str, value: dict[str, Any]) -> None:
        """Writes a file of the comparison, whole or not at all."""
        _replace(self.path / name, value)


def check_folder(path: str, grid: dict[str, Any], recipes: dict[str, Any]) -> Path:
    """Where a comparison goes, or goes on; nothing is written.

    Args:
        grid: what all its parts have in common.
        recipes: of the contenders, by name.

    Raises:
        OutputError: there is something else, a comparison of other data, or one of another recipe
            under the same name; or it cannot be made.
    """
    folder = Path(path).expanduser()
    if reason := why_not_writable(folder):
        raise OutputError(f"cannot write to `{folder}`: {reason}", "give another `--output-dir`")
    known = folder / GRID
    if known.is_file():
        files = {name: folder / "recipes" / f"{name}.json" for name in recipes}
        was = {name: _read(file) for name, file in files.items() if file.is_file()}
        now = {name: recipes[name] for name in was}
        if changed := differences(_read(known), grid) + differences(was, now):
            raise OutputError(
                f"`{folder}` holds another comparison: {'; '.join(_told(*c) for c in changed[:3])}",
                "give another `--output-dir`, or ask for the same again to go on with it",
            )
    elif folder.exists() and not is_empty_folder(folder):
        raise OutputError(
            f"`{folder}` exists already, and holds no comparison", "give a new `--output-dir`"
        )
    return folder


def open_folder(path: str, grid: dict[str, Any], recipes: dict[str, Any]) -> ComparisonFolder:
    """A new folder, or that of a comparison to go on with; arguments as for `check_folder`.

    Raises:
        OutputError: as `check_folder`.
    """
    folder = check_folder(path, grid, recipes)
    try:
        (folder / "recipes").mkdir(parents=True, exist_ok=True)
        for name, recipe in recipes.items():
            _replace(folder / "recipes" / f"{name}.json", recipe)
        if not (folder / GRID).is_file():
            _replace(folder / GRID, grid)
    except OSError as error:
        raise OutputError(
            f"cannot write to `{folder}`: {error.strerror}", "give another `--output-dir`"
        ) from error
    return ComparisonFolder(folder)


@contextmanager
def alone_in(folder: ComparisonFolder) -> Iterator[None]:
    """Inside, no other process goes on with the same comparison; where the system cannot tell, it
    is not asked.

    Raises:
        OutputError: one does.
    """
    with (folder.path / LOCK).open("w") as file:
        try:
            _lock(file)
        except OSError as error:
            raise OutputError(
                f"another process goes on with the comparison in `{folder.path}`",
                "wait for it, or give another `--output-dir`",
            ) from error
        yield  # closing the file, or the end of the process, lets it go


def _lock(file: TextIO) -> None:
    with contextlib.suppress(ImportError):  # Windows has none
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8"))


def _told(place: str, was: Any, now: Any) -> str:
    """How a value differs from what it was."""
    shown = [repr(value) for value in (was, now)]
    if max(map(len, shown)) > SHOWN:
        return f"`{place}` has changed"
    return f"`{place}` was {shown[0]} and is {shown[1]}"


def _replace(file: Path, value: dict[str, Any]) -> None:
    between = file.with_name(f".{file.name}.{os.getpid()}")
    write_json(between, value)
    between.replace(file)
