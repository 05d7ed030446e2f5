"""The run folder; removed on failure if no adapter was saved."""

from __future__ import annotations

import glob
import itertools
import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from peftkit.errors import AdapterError, Interrupted, OutputError, exit_code, not_found
from peftkit.recipe import Recipe

if TYPE_CHECKING:
    from accelerate import Accelerator


LATEST = "@latest"


@contextmanager
def output_folder(recipe: Recipe, output_dir: str, accelerator: Accelerator) -> Iterator[Path]:
    """A new run folder with recipe.json in it; removed on failure if no adapter was saved.

    Raises:
        OutputError: the folder holds something already, or cannot be made.
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
    """What a signal has left of a run that was not training."""
    kept = next((file.parent for file in folder.rglob("*.safetensors")), None)
    if kept is None:
        return Interrupted("stopped before anything could be kept", exit_code=code)
    if not (kept / "peftkit.json").is_file():  # what is written last of an adapter
        return Interrupted(f"stopped while `{kept}` was written; it is not whole", exit_code=code)
    return Interrupted(
        f"stopped before the saved adapter was checked; it is in `{kept}`",
        f"`peftkit verify {kept}` checks it",
        code,
    )


def check_output(output_dir: str) -> None:
    """Raises OutputError, before any work is done, if the run could not be written there."""
    folder = Path(output_dir).expanduser() if output_dir else Path("runs/x")
    if output_dir and folder.exists() and not is_empty_folder(folder):
        raise taken(output_dir)
    if reason := why_not_writable(folder):
        raise OutputError(
            f"cannot make the folder `{folder}`: {reason}",
            "give one that you may write with `--output-dir`",
        )


def why_not_writable(path: Path) -> str:
    """What keeps from writing at a place, or in the folder that is there; empty if nothing does."""
    path = path.absolute()
    parent = next(place for place in (path, *path.parents) if place.exists())
    if not parent.is_dir():
        return f"`{parent}` is no folder"
    return "" if os.access(parent, os.W_OK) else f"`{parent}` may not be written to"


def is_empty_folder(path: Path) -> bool:
    """Whether there is a folder with nothing in it."""
    return path.is_dir() and not any(path.iterdir())


def taken(output_dir: str) -> OutputError:
    """The error for a folder that holds something."""
    return OutputError(
        f"`{output_dir}` exists already, and nothing is overwritten",
        "give a new folder with `--output-dir`",
    )


def taken_name(name: str, output_dir: str) -> Path | None:
    """The folder that a run will go to where `runs/<name>` is taken; None where it is free, or
    another one is asked for.
    """
    first = Path("runs") / name
    if output_dir or not first.exists():
        return None
    return next(folder for folder in _numbered(first) if not folder.exists())


def newest_run(path: str) -> str:
    """Of `runs/<name>@latest`, the run folder of that name that was begun last and holds an
    adapter; any other path as it is.
    """
    if not path.endswith(LATEST) or not Path(path).expanduser().parent.is_dir():
        return path
    first = Path(path.removesuffix(LATEST)).expanduser()
    runs = [first, *first.parent.glob(f"{glob.escape(first.name)}-*")]
    named = re.compile(re.escape(first.name) + r"(-\d+)?")
    found = [run for run in runs if named.fullmatch(run.name) and (run / "adapter").is_dir()]
    found = [run for run in found if run == first or _name_in(run) == first.name]
    if not found:
        raise AdapterError(f"no run in `{first.parent}` is called `{first.name}`", not_found(first))
    return str(max(found, key=_begun))


def _name_in(run: Path) -> str:
    """The name that a run's recipe has: `lora-16` is no second run of `lora`."""
    try:
        return str(json.loads((run / "recipe.json").read_text(encoding="utf-8"))["name"])
    except (OSError, ValueError, KeyError, TypeError):
        return ""


def _begun(run: Path) -> float:
    """When a run was begun; its recipe is what it writes first."""
    recipe = run / "recipe.json"
    return (recipe if recipe.is_file() else run).stat().st_mtime


def _numbered(first: Path) -> Iterator[Path]:
    """`runs/<name>`, `runs/<name>-2`, `runs/<name>-3`, ..."""
    yield first
    for number in itertools.count(2):
        yield first.with_name(f"{first.name}-{number}")


def claim_folder(name: str, output_dir: str) -> Path:
    """Makes `output_dir`, or the first of `runs/<name>`, `runs/<name>-2`, ... that is free."""
    candidates = [Path(output_dir).expanduser()] if output_dir else _numbered(Path("runs") / name)
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
                "give one that you may write with `--output-dir`",
            ) from error
        else:
            return folder
    raise AssertionError("endless")


def write_json(file: Path, value: dict[str, Any]) -> None:
    """Writes JSON that a person can read, flushed to disk."""
    with file.open("w", encoding="utf-8") as opened:
        json.dump(value, opened, indent=1, ensure_ascii=False)
        opened.write("\n")
        opened.flush()
        os.fsync(opened.fileno())
