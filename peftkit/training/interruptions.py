"""Signals: the first Ctrl-C (SIGINT) or SIGTERM ends a run at the next safe place, a second one at
once.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from peftkit.errors import SIGNAL_BASE, Interrupted, exit_code

if TYPE_CHECKING:
    from accelerate import Accelerator

HANDLED = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Signals:
    """The signal that came inside `interruptible`."""

    code: int = 0
    """Its exit code; 0 if none came."""
    raising: bool = False
    """Whether the next one raises KeyboardInterrupt or SystemExit at once."""

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal ends the run at once, since nothing there can be left half done."""
        with self._raise(True):
            yield

    @contextlib.contextmanager
    def _raise(self, raising: bool) -> Iterator[None]:
        before, self.raising = self.raising, raising
        try:
            yield
        finally:
            self.raising = before


@contextlib.contextmanager
def interruptible(interrupted: Callable[[int], str]) -> Iterator[Signals]:
    """Inside, the first signal is only recorded, so that the block can end by itself; a second one
    ends it. Nested blocks share one `Signals`, so that no signal is lost between two of them.

    Args:
        interrupted: called with the signal's exit code; returns how far the work has come if
            nothing of it can be kept, else an empty text.

    Raises:
        Interrupted: there is nothing to keep.
    """
    nested = threading.current_thread() is threading.main_thread() and _current
    signals = _current[0] if nested else Signals()
    try:
        with _handled(signals):
            yield signals
    except (KeyboardInterrupt, SystemExit) as raised:
        signals.code = exit_code(raised)
    if signals.code and (where := interrupted(signals.code)):
        raise Interrupted(f"stopped {where}; nothing is kept", exit_code=signals.code)


def at_once_if_alone(
    signals: Signals, accelerator: Accelerator
) -> contextlib.AbstractContextManager[None]:
    """`Signals.at_once`, unless other processes would wait for this one."""
    return signals.at_once() if accelerator.num_processes == 1 else contextlib.nullcontext()


def any_process_signalled(signals: Signals, accelerator: Accelerator) -> bool:
    """Whether a signal came in any process; all of them then stop at the same step."""
    if accelerator.num_processes > 1:
        import torch

        code = torch.tensor([signals.code], device=accelerator.device)
        signals.code = int(accelerator.gather(code).max())
    return signals.code > 0


_current: list[Signals] = []
"""Where the outermost block of the main thread records signals; empty outside."""


@contextlib.contextmanager
def _handled(signals: Signals) -> Iterator[None]:
    """Inside, signals are recorded; only in the main thread, as Python requires."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _current:
        with signals._raise(False):
            yield
        return

    def record(number: int, _: Any) -> None:
        if signals.raising or signals.code:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(SIGNAL_BASE + number)
        signals.code = SIGNAL_BASE + number

    before = {number: signal.signal(number, record) for number in HANDLED}
    _current.append(signals)
    try:
        yield
    finally:
        _current.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
