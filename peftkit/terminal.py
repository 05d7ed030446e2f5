"""What a command prints to, and what must not come between."""

from __future__ import annotations

import logging
import os
import warnings
from typing import TYPE_CHECKING, Any

from peftkit.packages import check_needed

if TYPE_CHECKING:
    from rich.console import Console


def open_console(json_on_stdout: bool) -> Console:
    """Of the main process; on stderr where stdout holds JSON."""
    from rich.console import Console

    return Console(stderr=json_on_stdout, quiet=os.environ.get("RANK", "0") != "0")


def duration(seconds: float) -> str:
    """`0.4 s`, `12 s`, `3 min 5 s`, `2 h 10 min`."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plural(count: float, word: str) -> str:
    """`1 row`, `2 rows`, `1,200 rows`."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"


def quiet_libraries() -> None:
    """Keeps the libraries' own bars and notes out of the output; errors still come through.

    Raises:
        MissingPackageError: a library is missing.
    """
    check_needed()
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.simplefilter("ignore", FutureWarning)
    from transformers.utils import logging as transformers_logging

    notes: Any = transformers_logging
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    for noisy in ("bitsandbytes", "huggingface_hub"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
