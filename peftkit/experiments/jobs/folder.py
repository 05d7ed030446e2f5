"""Where a comparison lies: each finished part a file of its own, so that it can be gone on with."""

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
from peftkit.errors import OutputError, first_line
from peftkit.experiments.jobs.done import Done, Given, read_done
from peftkit.parts.json_values import differences

GRID = "grid.json"
CODE = "code.json"
LOCK = ".lock"
SHOWN = 40
"""Characters of a value that an error shows."""


@dataclass(frozen=True)
class ComparisonFolder:
    """The files of one comparison.

    grid.json               base, data, device and versions: the same for all parts
    recipes/NAME.json       what each contender's runs are made from
    code.json               SHA-256 of the files with tasks and methods of one's own
    trials/NAME/rate-*.json what a learning rate gave
    trials/NAME/seed-*.json what a run gave; the run itself lies in the folder of that name
    trials/NAME/merge-*.json what merging such a run took
    compare.json, .html, .md
    """

    path: Path

    def file_of(self, part: str) -> Path:
        """Where it is kept what a part gave."""
        return self.path / "trials" / f"{part}.json"

    def done(self, part: str, kind: type[Given]) -> Done[Given] | None:
        """What came of a finished part, or None.

        Args:
            kind: of what it gives.

        Raises:
            OutputError: its file is damaged.
        """
        file = self.file_of(part)
        if not file.is_file():
            return None
        hint = "delete it, and the same command does this part again"
        content = _read(file, hint)
        try:
            return read_done(kind, content)
        except ValueError as error:  # JSON of something else
            raise OutputError(f"`{file}` is damaged: {first_line(error)}", hint) from error

    def has_run(self, name: str, seed: int) -> bool:
        """Whether a contender was run with a seed, at whatever rate."""
        return any((self.path / "trials").glob(f"{glob.escape(name)}/seed-{seed}-rate-*.json"))

    def run_folder(self, part: str) -> Path:
        """Where a part's own files go."""
        return self.path / "trials" / part

    def finish(self, part: str, make: Callable[[Path], Done[Given]]) -> Done[Given]:
        """Does a part anew, from an empty place, and keeps what came of it.

        Args:
            make: does it, with the folder for its files, which does not exist.
        """
        folder = self.run_folder(part)
        shutil.rmtree(folder, ignore_errors=True)  # of a part that was broken off
        folder.parent.mkdir(parents=True, exist_ok=True)
        done = make(folder)
        _replace(self.file_of(part), done.to_json())
        return done

    def write(self, name: str, value: Any) -> None:
        """Writes a file of the comparison, whole or not at all."""
        _replace(self.path / name, value)


@dataclass(frozen=True)
class Identity:
    """By which a comparison is known again."""

    grid: JsonValue
    """What all its parts have in common."""
    recipes: dict[str, JsonValue]
    """Of the contenders, by name."""
    code: dict[str, str]
    """File -> SHA-256, of tasks and methods of one's own."""


def check_folder(path: str, identity: Identity) -> Path:
    """Where a comparison goes, or goes on; nothing is written.

    Raises:
        OutputError: there is something else, a comparison of other data, or one of another recipe
            under the same name; or it cannot be made.
    """
    folder = Path(path).expanduser()
    if reason := why_not_writable(folder):
        raise OutputError(f"cannot write to `{folder}`: {reason}", "give another `--output-dir`")
    known = folder / GRID
    if known.is_file():
        files = {name: folder / "recipes" / f"{name}.json" for name in identity.recipes}
        recipes = {name: _read(file) for name, file in files.items() if file.is_file()}
        changed = differences(_read(known), identity.grid)
        for was, now in ((recipes, identity.recipes), (_code(folder), identity.code)):
            asked = {name: value for name, value in now.items() if name in was}
            changed += differences({name: was[name] for name in asked}, asked)
        if changed:
            raise OutputError(
                f"`{folder}` holds another comparison: {'; '.join(_told(*c) for c in changed[:3])}",
                "give another `--output-dir`, or ask for the same again to go on with it",
            )
    elif folder.exists() and not _is_begun(folder):
        raise OutputError(
            f"`{folder}` exists already, and holds no comparison", "give a new `--output-dir`"
        )
    return folder


@contextmanager
def open_folder(path: str, identity: Identity) -> Iterator[ComparisonFolder]:
    """A new folder, or that of a comparison to go on with; inside, no other process does.

    Raises:
        OutputError: as `check_folder`, or another process goes on with it.
    """
    folder = ComparisonFolder(check_folder(path, identity))
    with contextlib.ExitStack() as stack:
        try:
            folder.path.mkdir(parents=True, exist_ok=True)
            stack.enter_context(alone_in(folder))
            check_folder(path, identity)  # as another process may have left it
            _identify(folder, identity)
        except OSError as error:
            raise OutputError(
                f"cannot write to `{folder.path}`: {error.strerror}", "give another `--output-dir`"
            ) from error
        yield folder


def _identify(folder: ComparisonFolder, identity: Identity) -> None:
    """Writes down what is compared: first that by which the folder is known to be a comparison."""
    if not (folder.path / GRID).is_file():
        folder.write(GRID, identity.grid)
    if identity.code:
        folder.write(CODE, _code(folder.path) | identity.code)
    (folder.path / "recipes").mkdir(exist_ok=True)
    for name, recipe in identity.recipes.items():
        folder.write(f"recipes/{name}.json", recipe)


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


def _is_begun(folder: Path) -> bool:
    """Whether nothing is there but what a comparison killed in its first moment leaves."""
    return folder.is_dir() and all(
        file.name == LOCK or file.name.startswith(f".{GRID}.") for file in folder.iterdir()
    )


def _code(folder: Path) -> dict[str, str]:
    file = folder / CODE
    digests: dict[str, str] = _read(file) if file.is_file() else {}
    return digests


def _lock(file: TextIO) -> None:
    with contextlib.suppress(ImportError):  # Windows has none
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _read(file: Path, hint: str = "give another `--output-dir`") -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:  # not text, or not JSON
        raise OutputError(f"`{file}` is damaged: {error}", hint) from error


def _told(place: str, was: Any, now: Any) -> str:
    """How a value differs from what it was."""
    if place == "data" and digest_version(was) != digest_version(now):
        return (
            f"another peftkit began it, whose digest of the examples has version "
            f"{digest_version(was)}, and this one's has {digest_version(now)}, so that nothing "
            "tells whether they are the same"
        )
    shown = [repr(value) for value in (was, now)]
    if max(map(len, shown)) > SHOWN:
        return f"`{place}` has changed"
    return f"`{place}` was {shown[0]} and is {shown[1]}"


def _replace(file: Path, value: Any) -> None:
    between = file.with_name(f".{file.name}.{os.getpid()}")
    write_json(between, value)
    between.replace(file)
