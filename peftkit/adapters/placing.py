"""Writes a file or folder whole or not at all."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from peftkit.errors import OutputError, first_line
from peftkit.output import is_empty_folder


@contextmanager
def placed(final: Path) -> Iterator[Path]:
    """Where to write what is to stand at a place; it gets there at the end, if nothing fails.

    Raises:
        OutputError: something stands there already, or it cannot be written.
    """
    _refuse_taken(final)
    try:
        final.parent.mkdir(parents=True, exist_ok=True)
        between = Path(tempfile.mkdtemp(prefix=f".{final.name}.partial-", dir=final.parent))
    except OSError as error:
        raise OutputError(f"cannot write `{final}`: {error.strerror}") from error
    try:
        yield between / final.name
        _refuse_taken(final)  # another process may have been faster
        (between / final.name).rename(final)
    except (OSError, SafetensorError) as error:
        raise OutputError(
            f"cannot write `{final}`: {first_line(error)}", "is there room left on the disk?"
        ) from error
    finally:
        shutil.rmtree(between, ignore_errors=True)


def _refuse_taken(final: Path) -> None:
    if (final.exists() or final.is_symlink()) and not is_empty_folder(final):
        raise OutputError(
            f"`{final}` exists already, and nothing is overwritten", "give another `--output`"
        )
