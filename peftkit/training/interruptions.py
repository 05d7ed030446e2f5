"""What a signal does to a run: Ctrl-C (SIGINT) and SIGTERM end it at the next safe place, and a
second one at once.
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

NOTED = (signal.SIGINT, signal.SIGTERM)


@dataclass
class Signals:
    """The signal that came inside `interruptible`."""

    code: int = 0
    """Its exit code; 0 if none came."""
    raising: bool = False
    """Whether the next one raises KeyboardInterrupt or SystemExit at once."""

    @contextlib.contextmanager
    def at_once(self) -> Iterator[None]:
        """Inside, a signal ends the run at once: nothing there can be left half done."""
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
    """Inside, the first signal is recorded, and the block ends by itself; a second one ends it. A
    block inside another one has the same `Signals`: none is lost between two of them.

    Args:
        interrupted: called with the signal's exit code; returns how far the work has come if
            nothing of it can be kept, else an empty text.

    Raises:
        Interrupted: there is nothing to keep.
    """
    inside = threading.current_thread() is threading.main_thread() and _current
    signals = _current[0] if inside else Signals()
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


def agreed(signals: Signals, accelerator: Accelerator) -> bool:
    """Whether a signal came in any of the processes, which all stop at the same step."""
    if accelerator.num_processes > 1:
        import torch

        code = torch.tensor([signals.code], device=accelerator.device)
        signals.code = int(accelerator.gather(code).max())
    return signals.code > 0


_current: list[Signals] = []
"""Where the outermost block of the main thread records signals; empty outside."""


@contextlib.contextmanager
def _handled(signals: Signals) -> Iterator[None]:
    """Inside, signals are recorded; in the main thread only, as Python requires."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    if _current:
        with signals._raise(False):
            yield
        return

    def note(number: int, _: Any) -> None:
        if signals.raising or signals.code:
            if number == signal.SIGINT:
                raise KeyboardInterrupt
            sys.exit(SIGNAL_BASE + number)
        signals.code = SIGNAL_BASE + number

    before = {number: signal.signal(number, note) for number in NOTED}
    _current.append(signals)
    try:
        yield
    finally:
        _current.clear()
        for number, handler in before.items():
            signal.signal(number, handler)
