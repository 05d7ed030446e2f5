"""What a signal does to a run: Ctrl-C, or SIGTERM, which the command line makes a SystemExit."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from peftkit.errors import Interrupted

CTRL_C = 130
"""Exit code of a program that Ctrl-C ended, as shells have it."""


@contextlib.contextmanager
def interruptible(interrupted: Callable[[int], str]) -> Iterator[None]:
    """Inside, a signal ends the block and nothing else, if there is something to keep.

    Args:
        interrupted: is given the exit code that the signal asks for; says how far the work has
            come if nothing can be kept of it, else nothing.

    Raises:
        Interrupted: there is nothing to keep.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as signal:
        code = exit_code(signal)
        if where := interrupted(code):
            raise Interrupted(f"stopped {where}; nothing is kept", exit_code=code) from signal


def exit_code(signal: BaseException) -> int:
    """What a signal asks for."""
    code = signal.code if isinstance(signal, SystemExit) else CTRL_C
    return code if isinstance(code, int) else 1
