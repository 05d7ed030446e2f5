"""Keeps the bars and notes of libraries out of peftkit's output."""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import warnings
from collections.abc import Iterator
from typing import Any

from peftkit.bases.packages import check_needed

NOISY = ("bitsandbytes", "huggingface_hub")
"""Loggers whose notes a person need not read."""


PARALLELISM = "TOKENIZERS_PARALLELISM"


def quiet_libraries() -> None:
    """Keeps the libraries' own bars and notes out of the output of this process, to its end; errors
    still come through.

    Raises:
        MissingPackageError: a library is missing.
    """
    check_needed()
    os.environ.setdefault(PARALLELISM, "false")
    warnings.simplefilter("ignore", FutureWarning)
    from transformers.utils import logging as transformers_logging

    notes: Any = transformers_logging
    notes.set_verbosity_error()
    notes.disable_progress_bar()
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)


class _Inside:
    """How many threads are inside `quietly`, and what puts things back when the last one leaves."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.put_back = contextlib.ExitStack()


_INSIDE = _Inside()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Inside, the libraries are as quiet as for a command; then they are as they were before, for a
    program that has settings of its own.
    """
    with _INSIDE.lock:
        if not _INSIDE.count:
            _INSIDE.put_back.enter_context(_hushed())
        _INSIDE.count += 1
    try:
        yield
    finally:
        with _INSIDE.lock:
            _INSIDE.count -= 1
            if not _INSIDE.count:
                _INSIDE.put_back.close()


@contextlib.contextmanager
def _hushed() -> Iterator[None]:
    """`quietly`, for one at a time."""
    import huggingface_hub.utils
    from transformers.utils import logging as transformers_logging

    notes: Any = transformers_logging
    hub: Any = huggingface_hub.utils
    loggers = [logging.getLogger(name) for name in ("transformers", *NOISY)]
    levels = [logger.level for logger in loggers]
    bars, downloads = notes.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    parallelism = os.environ.get(PARALLELISM)
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                notes.enable_progress_bar()  # and those of downloads
            if not downloads:
                hub.disable_progress_bars()
            if parallelism is None:
                os.environ.pop(PARALLELISM, None)
