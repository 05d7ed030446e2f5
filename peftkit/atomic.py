"""Writes a file or folder completely or not at all."""

from __future__ import annotations

import errno
import glob
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from peftkit.errors import OutputError, first_line

FULL = (errno.ENOSPC, errno.EDQUOT)


def output_path(output: str) -> Path:
    """Returns the absolute path of `--output`.

    Raises:
        OutputError: `output` is not a path, or is too long.
    """
    try:
        expanded = Path(output).expanduser().absolute()
        expanded.exists()
    except (RuntimeError, OSError, ValueError) as error:  # `~somebody`, too long, not allowed
        reason = getattr(error, "strerror", None) or error
        raise OutputError(f"`--output {output[:100]}`: {reason}", "give another path") from error
    return expanded


@contextmanager
def atomic_path(final: Path, a_file: bool = False) -> Iterator[Path]:
    """Yields a temporary path; renames it to `final` on success, and removes it otherwise.

    Args:
        a_file: True if the caller writes a file, False if a folder.

    Raises:
        OutputError: `final` exists already, or cannot be written.
    """
    from safetensors import SafetensorError

    refuse_taken(final, a_file)
    created = [folder for folder in final.parents if not folder.exists()]
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        _remove_left_over(final)
        prefix = f"{_partial(final)}{os.getpid()}-"
        temporary = Path(tempfile.mkdtemp(prefix=prefix, dir=final.parent))
    except OSError as error:
        raise OutputError(
            f"cannot write `{final}`: {error.strerror}", "give another `--output`"
        ) from error
    try:
        yield temporary / final.name
        fsync_files(temporary)
        refuse_taken(final, a_file)  # another process may have been faster
        (temporary / final.name).rename(final)
    except (OSError, SafetensorError) as error:
        full = getattr(error, "errno", None) in FULL
        raise OutputError(
            f"cannot write `{final}`: {first_line(error)}",
            "the disk is full; free some space" if full else "",
        ) from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        for folder in created:
            if is_empty_folder(folder):
                folder.rmdir()


def fsync_files(folder: Path) -> None:
    """Flushes a folder's files to disk, and makes them readable for all users, because safetensors
    writes files that only their owner can read.
    """
    for file in folder.rglob("*"):
        if file.is_file():
            file.chmod(0o644)
            with file.open("rb+") as opened:
                os.fsync(opened.fileno())


def _partial(final: Path) -> str:
    return f".{final.name[:40]}.partial-"


def _remove_left_over(final: Path) -> None:
    """Removes temporary folders of `final` whose process no longer runs."""
    import psutil

    for folder in final.parent.glob(f"{glob.escape(_partial(final))}*-*"):
        number = folder.name.removeprefix(_partial(final)).partition("-")[0]
        if number.isdecimal() and not psutil.pid_exists(int(number)):
            shutil.rmtree(folder, ignore_errors=True)


def refuse_taken(final: Path, a_file: bool = False) -> None:
    """Raises OutputError if a path already exists, or cannot be written.

    Args:
        a_file: True to write a file; False to write a folder, which may exist if it is empty.
    """
    taken = final.is_symlink() or final.exists()
    if taken and (a_file or final.is_symlink() or not is_empty_folder(final)):
        raise OutputError(
            f"`{final}` exists already, and nothing is overwritten", "give another `--output`"
        )
    if reason := why_not_writable(final.parent):
        raise OutputError(f"cannot write `{final}`: {reason}", "give another `--output`")


def why_not_writable(path: Path) -> str:
    """Returns why a path, or a file inside it, cannot be written; empty if it can."""
    path = path.absolute()
    parent = next(folder for folder in (path, *path.parents) if folder.exists())
    if not parent.is_dir():
        return f"`{parent}` is not a folder"
    return "" if os.access(parent, os.W_OK) else f"`{parent}` is not writable"


def is_empty_folder(path: Path) -> bool:
    """Whether a path is an empty folder."""
    return path.is_dir() and not any(path.iterdir())


def write_json(file: Path, value: Any) -> None:
    """Writes indented JSON, flushed to disk."""
    with file.open("w", encoding="utf-8") as opened:
        json.dump(value, opened, indent=1, ensure_ascii=False)
        opened.write("\n")
        opened.flush()
        os.fsync(opened.fileno())
