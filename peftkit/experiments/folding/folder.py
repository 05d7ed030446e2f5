"""The folder of a cross-validation, which can resume.

fold_1, fold_2, ...    the run folder of each fold
folds.json             identity, scores and the chosen fold
folds.html             the same as a page
folds_recipe.json      the recipe of all folds; `peftkit run` repeats the cross-validation
adapter, recipe.json   the chosen fold's, so that commands on adapters take the folder
"""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from peftkit.atomic import is_empty_folder, why_not_writable
from peftkit.errors import OutputError, first_line
from peftkit.experiments.folding.folds import Fold
from peftkit.experiments.folding.record import FILE, FoldsRecord, Identity, read_record
from peftkit.experiments.jobs.folder import LOCK, describe_change, locked, replace_json
from peftkit.parts.json_values import differences
from peftkit.parts.records import to_json
from peftkit.recipe import Recipe
from peftkit.stages.run_folder import numbered, taken

RECIPE = "folds_recipe.json"
LAST = "receipt.html"
"""The last file that a run writes."""


@dataclass(frozen=True)
class FoldsFolder:
    """The folder of one cross-validation."""

    path: Path

    def run_folder(self, fold: Fold) -> Path:
        """Path of a fold's run folder."""
        return self.path / fold.name

    def is_done(self, fold: Fold) -> bool:
        """Whether a fold's run is finished."""
        return (self.run_folder(fold) / LAST).is_file()

    def write(self, record: FoldsRecord) -> None:
        """Writes folds.json."""
        replace_json(self.path / FILE, record.to_json())

    def take_adapter(self, fold: Fold) -> None:
        """Puts a fold's adapter and recipe.json into the folder itself. Files are hard links where
        the disk has them, and so take no room.
        """
        new, final = self.path / ".adapter.partial", self.path / "adapter"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(self.run_folder(fold) / "adapter", new, copy_function=_link)
        shutil.rmtree(final, ignore_errors=True)
        shutil.copy2(self.run_folder(fold) / "recipe.json", self.path / "recipe.json")
        new.rename(final)


def _link(source: str, target: str) -> str:
    try:
        os.link(source, target)
    except OSError:  # the file system has no hard links
        return str(shutil.copy2(source, target))
    return target


@contextmanager
def open_folder(recipe: Recipe, output_dir: str, identity: Identity) -> Iterator[FoldsFolder]:
    """Makes and locks the folder of a cross-validation, or opens it to resume. On an error, a
    folder without a finished run is removed.

    It is `output_dir`, or the first of `runs/<name>`, `runs/<name>-2`, ... that is free or holds
    the same cross-validation.

    Raises:
        OutputError: the folder cannot be written, holds something else or is in use.
    """
    path = find_folder(recipe.name or "run", output_dir, identity)
    folder = FoldsFolder(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(path, error.strerror or "") from error
    with locked(path, "the cross-validation"):
        if not (path / FILE).is_file():
            (path / RECIPE).write_text(recipe.to_json(), encoding="utf-8")
            folder.write(FoldsRecord(status="unfinished", name=path.name, identity=identity))
        try:
            yield folder
        except BaseException:
            if not any(path.glob(f"*/{LAST}")):
                shutil.rmtree(path, ignore_errors=True)
                with contextlib.suppress(OSError):  # not empty
                    path.parent.rmdir() if not output_dir else None
            raise


def find_folder(name: str, output_dir: str, identity: Identity) -> Path:
    """The folder that `open_folder` opens. Writes nothing."""
    candidates = iter([Path(output_dir).expanduser()]) if output_dir else numbered(
        Path("runs") / name
    )  # fmt: skip
    for folder in candidates:
        if reason := why_not_writable(folder):
            raise _not_writable(folder, reason)
        if not folder.exists() or is_empty_folder(folder) or _is_begun(folder):
            return folder
        if (folder / FILE).is_file():
            changes = _changes(folder, identity)
            if not changes:
                return folder
            if output_dir:
                raise OutputError(
                    f"`{folder}` holds another cross-validation: {'; '.join(changes[:3])}",
                    "give another `--output-dir`, or repeat that one to resume it",
                )
        elif output_dir:
            raise taken(output_dir)
    raise AssertionError("endless")


def _is_begun(folder: Path) -> bool:
    """Whether the folder only holds files of a cross-validation killed at its start."""
    names = {file.name for file in folder.iterdir()} if folder.is_dir() else {""}
    return LOCK in names and names <= {LOCK, RECIPE}


def _changes(folder: Path, identity: Identity) -> list[str]:
    """What a folder's cross-validation does not have in common with this one, for a message."""
    try:
        recorded = read_record(folder).identity
    except ValueError as error:
        return [f"`{FILE}` is damaged: {first_line(error)}"]
    found = differences(to_json(recorded), to_json(identity))
    return [describe_change(*change) for change in found]


def _not_writable(folder: Path, reason: str) -> OutputError:
    return OutputError(
        f"cannot make the folder `{folder}`: {reason}",
        "give a writable folder with `--output-dir`",
    )
