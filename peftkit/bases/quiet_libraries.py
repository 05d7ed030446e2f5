"""Keeps libraries' progress bars and log messages out of peftkit's output."""

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
"""Loggers from which only errors are shown."""
PARALLELISM = "TOKENIZERS_PARALLELISM"


def quiet_libraries() -> None:
    """Hides libraries' progress bars and all messages but errors, until the process ends.

    Raises:
        MissingPackageError: a library is missing.
    """
    check_needed()
    os.environ.setdefault(PARALLELISM, "false")
    warnings.simplefilter("ignore", FutureWarning)
    from transformers.utils import logging as transformers_logging

    messages: Any = transformers_logging
    messages.set_verbosity_error()
    messages.disable_progress_bar()
    for noisy in NOISY:
        logging.getLogger(noisy).setLevel(logging.ERROR)


class _Inside:
    """Number of threads inside `quietly`; settings to restore when the last thread leaves it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.count = 0
        self.restore = contextlib.ExitStack()


_INSIDE = _Inside()


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Makes libraries quiet inside the block, as `quiet_libraries` does; then restores settings."""
    with _INSIDE.lock:
        if not _INSIDE.count:
            _INSIDE.restore.enter_context(_quiet_once())
        _INSIDE.count += 1
    try:
        yield
    finally:
        with _INSIDE.lock:
            _INSIDE.count -= 1
            if not _INSIDE.count:
                _INSIDE.restore.close()


@contextlib.contextmanager
def _quiet_once() -> Iterator[None]:
    """Hides libraries' output inside the block, then restores their settings. Two threads must not
    use it at once.
    """
    import huggingface_hub.utils
    from transformers.utils import logging as transformers_logging

    messages: Any = transformers_logging
    hub: Any = huggingface_hub.utils
    loggers = [logging.getLogger(name) for name in ("transformers", *NOISY)]
    levels = [logger.level for logger in loggers]
    bars, downloads = messages.is_progress_bar_enabled(), not hub.are_progress_bars_disabled()
    parallelism = os.environ.get(PARALLELISM)
    with warnings.catch_warnings():
        quiet_libraries()
        try:
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.setLevel(level)
            if bars:
                messages.enable_progress_bar()  # also enables those of downloads
            if not downloads:
                hub.disable_progress_bars()
            if parallelism is None:
                os.environ.pop(PARALLELISM, None)
