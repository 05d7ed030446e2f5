"""Makes the run folder; removes it on failure if no adapter was saved."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.atomic import is_empty_folder, why_not_writable
from peftkit.errors import Interrupted, OutputError, exit_code
from peftkit.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


@contextmanager
def output_folder(recipe: Recipe, output_dir: str, accelerator: Accelerator) -> Iterator[Path]:
    """Makes a run folder with recipe.json; removes it on failure if no adapter was saved.

    Raises:
        OutputError: the folder is not empty, or cannot be created.
    """
    from accelerate.utils import broadcast_object_list

    claimed = [Path()]
    if accelerator.is_main_process:
        claimed = [claim_folder(recipe.name or "run", output_dir)]
    broadcast_object_list(claimed)
    folder = claimed[0]
    if recipe.training.report_to != "none":
        accelerator.project_configuration.project_dir = str(folder)
        accelerator.project_configuration.logging_dir = str(folder)
    if accelerator.is_main_process:
        (folder / "recipe.json").write_text(recipe.to_json(), encoding="utf-8")
    try:
        yield folder
    except BaseException as error:
        accelerator.end_training()
        if accelerator.is_main_process and not any(folder.rglob("*.safetensors")):
            shutil.rmtree(folder)
            if not output_dir and not any(folder.parent.iterdir()):
                folder.parent.rmdir()
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise _interrupted(folder, exit_code(error)) from error
        raise


def _interrupted(folder: Path, code: int) -> Interrupted:
    """The error for a signal outside training; it says which adapter was saved, if any."""
    kept = next((file.parent for file in folder.rglob("*.safetensors")), None)
    if kept is None:
        return Interrupted("stopped before anything was saved", exit_code=code)
    if not (kept / "peftkit.json").is_file():  # the last file of an adapter
        return Interrupted(f"stopped while `{kept}` was written; it is incomplete", exit_code=code)
    return Interrupted(
        f"stopped before the saved adapter was checked; it is in `{kept}`",
        f"check it with `peftkit verify {kept}`",
        code,
    )


def check_output(output_dir: str) -> None:
    """Raises OutputError if the output folder is not empty or cannot be written."""
    folder = Path(output_dir).expanduser() if output_dir else Path("runs/x")
    if output_dir and folder.exists() and not is_empty_folder(folder):
        raise taken(output_dir)
    if reason := why_not_writable(folder):
        raise OutputError(
            f"cannot make the folder `{folder}`: {reason}",
            "give a writable folder with `--output-dir`",
        )


def taken(output_dir: str) -> OutputError:
    """The error for an output folder that is not empty."""
    return OutputError(
        f"`{output_dir}` exists already, and nothing is overwritten",
        "give a new folder with `--output-dir`",
    )


def taken_name(name: str, output_dir: str) -> Path | None:
    """The folder that a run will use if `runs/<name>` already exists. None if `runs/<name>` is
    free, or if `output_dir` is given.
    """
    first = Path("runs") / name
    if output_dir or not first.exists():
        return None
    return next(folder for folder in numbered(first) if not folder.exists())


def numbered(first: Path) -> Iterator[Path]:
    """Yields `runs/<name>`, `runs/<name>-2`, `runs/<name>-3`, ..."""
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.name}-{number}")


def claim_folder(name: str, output_dir: str) -> Path:
    """Makes `output_dir` if given, else the first free of `runs/<name>`, `runs/<name>-2`, ..."""
    candidates = [Path(output_dir).expanduser()] if output_dir else numbered(Path("runs") / name)
    for folder in candidates:
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            if output_dir and is_empty_folder(folder):
                return folder
            if output_dir:
                raise taken(output_dir) from None
        except OSError as error:
            raise OutputError(
                f"cannot make the folder `{folder}`: {error.strerror}",
                "give a writable folder with `--output-dir`",
            ) from error
        else:
            return folder
    raise AssertionError("endless")
