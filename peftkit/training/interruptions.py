"""Handles Ctrl-C (SIGINT) and SIGTERM: the first signal ends a run at the next safe place, a second
signal ends it immediately.
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
    """The signal that came inside an `interruptible` block."""

    code: int = 0
    """Exit code of the signal; 0 if none came."""
    raising: bool = False
    """Whether the next signal immediately raises KeyboardInterrupt or SystemExit."""

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Lets a signal end the run immediately inside the block. Use it only for work that does no
        harm if it ends halfway, such as scoring.
        """
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
    """Records the first signal inside the block, so that the block can end by itself; a second
    signal ends the block. Nested blocks share one `Signals`, so that no signal is lost.

    Args:
        interrupted: called with the signal's exit code. Returns how far the work has come if there
            are no results to save, and an empty text if there are.

    Raises:
        Interrupted: a signal came and there are no results to save.
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
    """Returns `signals.at_once()` if there is one process. If there are several processes, returns
    a context without effect: the others would wait for a process that has ended.
    """
    return signals.at_once() if accelerator.num_processes == 1 else contextlib.nullcontext()


def any_process_signalled(signals: Signals, accelerator: Accelerator) -> bool:
    """Whether a signal came in any process, so that all processes stop at the same step."""
    if accelerator.num_processes > 1:
        import torch

        code = torch.tensor([signals.code], device=accelerator.device)
        signals.code = int(accelerator.gather(code).max())
    return signals.code > 0


_current: list[Signals] = []
"""Holds the `Signals` of the main thread's outermost `interruptible` block; empty outside of it."""


@contextlib.contextmanager
def _handled(signals: Signals) -> Iterator[None]:
    """Records signals inside the block if it runs in the main thread. In other threads the block
    has no effect, since Python handles no signals there.
    """
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
