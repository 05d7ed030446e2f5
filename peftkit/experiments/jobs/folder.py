"""The folder of a comparison. It has a file for each finished part, so that runs can resume."""

from __future__ import annotations

import contextlib
import glob
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from pydantic import JsonValue

from peftkit.atomic import why_not_writable, write_json
from peftkit.data.encoded import digest_version
from peftkit.errors import OutputError, RecipeError, first_line
from peftkit.experiments.jobs.done import Done, Result, read_done
from peftkit.parts.json_values import differences
from peftkit.recipe import Recipe

GRID = "grid.json"
CODE = "code.json"
LOCK = ".lock"
SHOWN = 40
"""Maximum length of a value in an error message, in characters."""


@dataclass(frozen=True)
class ComparisonFolder:
    """The files of one comparison.

    grid.json                base, data, device and versions, which all parts share
    recipes/NAME.json        the recipe of each contender's runs
    code.json                SHA-256 of the files with the user's own tasks and methods
    trials/NAME/rate-*.json  result of a learning rate's trial
    trials/NAME/seed-*.json  result of a run; seed-* without .json is the run folder
    trials/NAME/merge-*.json peak memory of merging a run's adapter
    compare.json, .html, .md the results, as record, report and Markdown table
    """

    path: Path

    def file_of(self, part: str) -> Path:
        """Path of the file with a part's result."""
        return self.path / "trials" / f"{part}.json"

    def done(self, part: str, kind: type[Result]) -> Done[Result] | None:
        """The result of a finished part; None if it is not finished.

        Args:
            kind: type of the result.

        Raises:
            OutputError: the file of the part is damaged.
        """
        file = self.file_of(part)
        if not file.is_file():
            return None
        hint = "delete it and repeat the command, which does this part again"
        content = _read(file, hint)
        try:
            return read_done(kind, content)
        except ValueError as error:  # JSON of something else
            raise OutputError(f"`{file}` is damaged: {first_line(error)}", hint) from error

    def has_run(self, name: str, seed: int) -> bool:
        """Whether a contender has a finished run with this seed, whatever its learning rate."""
        return any((self.path / "trials").glob(f"{glob.escape(name)}/seed-{seed}-rate-*.json"))

    def run_folder(self, part: str) -> Path:
        """Path of the folder for the files that a part writes."""
        return self.path / "trials" / part

    def finish(self, part: str, make: Callable[[Path], Done[Result]]) -> Done[Result]:
        """Runs a part and saves its result; deletes files of an interrupted attempt first.

        Args:
            make: runs the part; takes the path of its folder, which does not exist yet.
        """
        folder = self.run_folder(part)
        shutil.rmtree(folder, ignore_errors=True)  # from an interrupted attempt
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = make(folder)
        replace_json(self.file_of(part), done.to_json())
        return done

    def write(self, name: str, value: Any) -> None:
        """Writes a file of the comparison atomically."""
        replace_json(self.path / name, value)


@dataclass(frozen=True)
class Identity:
    """What a comparison must have in common with an earlier one to resume it in its folder."""

    grid: JsonValue
    """The content of grid.json: values that all parts share."""
    recipes: dict[str, JsonValue]
    """Name of a contender -> JSON of its recipe."""
    code: dict[str, str]
    """Module with the user's own task or method -> SHA-256 of its file."""


def check_folder(path: str, identity: Identity) -> Path:
    """Checks that a comparison can start or resume in a folder; returns the folder. Writes nothing.

    Raises:
        OutputError: the folder cannot be written, holds something else, or holds a comparison with
            other data or with another recipe of the same name.
    """
    folder = Path(path).expanduser()
    if reason := why_not_writable(folder):
        raise OutputError(f"cannot write to `{folder}`: {reason}", "give another `--output-dir`")
    known = folder / GRID
    if known.is_file():
        files = {name: folder / "recipes" / f"{name}.json" for name in identity.recipes}
        recipes = {name: _recipe(file) for name, file in files.items() if file.is_file()}
        changed = differences(_read(known), identity.grid)
        for was, now in ((recipes, identity.recipes), (_code(folder), identity.code)):
            shared = {name: value for name, value in now.items() if name in was}
            changed += differences({name: was[name] for name in shared}, shared)
        if changed:
            changes = "; ".join(describe_change(*change) for change in changed[:3])
            raise OutputError(
                f"`{folder}` holds another comparison: {changes}",
                "give another `--output-dir`, or repeat that comparison to resume it",
            )
    elif folder.exists() and not _is_begun(folder):
        raise OutputError(
            f"`{folder}` exists already and holds no comparison", "give a new `--output-dir`"
        )
    return folder


def _recipe(file: Path) -> Any:
    """Reads a recipe's JSON; fields that the file lacks get their defaults."""
    try:
        text = Recipe.from_json(file.read_text(encoding="utf-8")).to_json()
    except (RecipeError, OSError):
        return _read(file)
    return json.loads(text)


@contextmanager
def open_folder(path: str, identity: Identity) -> Iterator[ComparisonFolder]:
    """Opens and locks the folder of a comparison, to start or resume it.

    Raises:
        OutputError: another process uses the folder, or the folder fails `check_folder`.
    """
    folder = ComparisonFolder(check_folder(path, identity))
    with contextlib.ExitStack() as stack:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(folder))
            check_folder(path, identity)  # the folder may have changed before it was locked
            _identify(folder, identity)
        except OSError as error:
            raise OutputError(
                f"cannot write to `{folder.path}`: {error.strerror}", "give another `--output-dir`"
            ) from error
        yield folder


def _identify(folder: ComparisonFolder, identity: Identity) -> None:
    """Writes grid.json, which marks a comparison's folder, then code.json and the recipes."""
    if not (folder.path / GRID).is_file():
        folder.write(GRID, identity.grid)
    if identity.code:
        folder.write(CODE, _code(folder.path) | identity.code)
    (folder.path / "recipes").mkdir(exist_ok=True)
    for name, recipe in identity.recipes.items():
        folder.write(f"recipes/{name}.json", recipe)


@contextmanager
def alone_in(folder: ComparisonFolder) -> Iterator[None]:
    """Locks the folder of a comparison; see `locked`."""
    with locked(folder.path, "the comparison"):
        yield


@contextmanager
def locked(folder: Path, what: str) -> Iterator[None]:
    """Locks a folder against other processes, if the system has file locks.

    Args:
        what: what runs in the folder, for the message.

    Raises:
        OutputError: another process uses the folder.
    """
    with (folder / LOCK).open("w") as file:
        try:
            _lock(file)
        except OSError as error:
            raise OutputError(
                f"another process is running {what} in `{folder}`",
                "wait for it, or give another `--output-dir`",
            ) from error
        yield  # the lock ends when the file is closed or the process ends


def _is_begun(folder: Path) -> bool:
    """Whether the folder holds only temporary files of a comparison killed at its start."""
    return folder.is_dir() and all(
        file.name == LOCK or file.name.startswith(f".{GRID}.") for file in folder.iterdir()
    )


def _code(folder: Path) -> dict[str, str]:
    file = folder / CODE
    digests: dict[str, str] = _read(file) if file.is_file() else {}
    return digests


def _lock(file: TextIO) -> None:
    with contextlib.suppress(ImportError):  # missing on Windows
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: Path, hint: str = "give another `--output-dir`") -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not text, or not JSON
        raise OutputError(f"`{file}` is damaged: {error}", hint) from error


def describe_change(place: str, was: Any, now: Any) -> str:
    """Describes how a value has changed, for an error message."""
    if place == "data" and digest_version(was) != digest_version(now):
        return (
            f"another version of peftkit began it: its digest of the examples has version "
            f"{digest_version(was)}, but here it has {digest_version(now)}, so the data cannot "
            "be compared"
        )
    shown = [repr(value) for value in (was, now)]
    if max(map(len, shown)) > SHOWN:
        return f"`{place}` has changed"
    return f"`{place}` was {shown[0]} and is {shown[1]}"


def replace_json(file: Path, value: Any) -> None:
    """Writes a JSON file atomically; replaces an existing one."""
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    write_json(temporary, value)
    temporary.replace(file)
