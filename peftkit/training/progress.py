"""Shows the progress of work: a bar in a terminal, a line every 30 seconds elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from peftkit.wording import duration

EVERY = 30.0
"""Seconds between two lines and before the first line; shorter work prints nothing."""
Say = Callable[[str], None]
"""Function that prints one line."""
Now = Callable[[], float]
"""Function that returns the time in seconds, like `time.monotonic`."""


def silent(_: str) -> None:
    """A `Say` that prints nothing."""


def line_printer(console: Console) -> Say:
    """Returns a function that prints indented lines on a console."""

    def say(line: str) -> None:
        console.print(f"  {line}", markup=False, highlight=False, soft_wrap=True)

    return say


class Pace:
    """Prints the progress of work with a known number of units: `test: 1,200 of 5,000 rows, 64
    rows/s, 1 min 0 s left`.

    Args:
        what: the name of the work.
        total: number of units.
        unit: name of the units, in the plural.
        every: seconds between two lines and before the first line.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        say: Say,
        what: str,
        total: int,
        unit: str = "rows",
        every: float = EVERY,
        clock: Now = time.monotonic,
    ) -> None:
        self._say, self._what, self._total, self._unit = say, what, total, unit
        self._every, self._clock = every, clock
        self._done = 0
        self._started = self._last = clock()

    def advance(self, count: int) -> None:
        """Counts finished units, and prints a line if one is due."""
        self._done += count
        now = self._clock()
        if self._done >= self._total or now - self._last < self._every:
            return
        self._last = now
        speed = self._done / max(1e-9, now - self._started)
        self._say(
            f"{self._what}: {self._done:,} of {self._total:,} {self._unit}, "
            f"{_speed(speed, self._unit)}, {duration((self._total - self._done) / speed)} left"
        )


class Stages:
    """Prints the name of a stage that begins, at most one name per `every` seconds (see `Pace`)."""

    def __init__(self, say: Say, every: float = EVERY, clock: Now = time.monotonic) -> None:
        self._say, self._every, self._clock = say, every, clock
        self._started = self._last = clock()

    def __call__(self, stage: str) -> None:
        """Prints the name of a stage that begins, if no name was printed for `every` seconds."""
        now = self._clock()
        if now - self._last >= self._every:
            self._last = now
            self._say(f"{stage}, after {duration(now - self._started)}")


class TrainingProgress:
    """Shows training: in a terminal, a bar with loss, learning rate, speed and time left; in a
    file, a line every `every` seconds. Both get a line for each validation.

    Args:
        every: seconds between two lines in a file, and before the first line.
        clock: returns the time in seconds.
    """

    def __init__(
        self,
        console: Console,
        num_steps: int,
        visible: bool,
        every: float = EVERY,
        clock: Now = time.monotonic,
    ) -> None:
        self._console, self._num_steps, self._visible = console, num_steps, visible
        self._every, self._clock = every, clock
        self._bar = Progress(
            TextColumn("  training"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[status]}"),
            TimeRemainingColumn(compact=True),
            console=console,
            transient=True,
            disable=not (visible and console.is_terminal),
        )
        self._task = self._bar.add_task("", total=num_steps, status="")
        self._steps = self._examples = self._tokens = 0
        self._losses: list[float] = []  # since the last line
        self._started = self._last = clock()

    def step(self, loss: float, learning_rate: float, examples: int, tokens: int) -> None:
        """Shows one optimizer step; `examples` and `tokens` (without padding) are counts."""
        self._steps += 1
        self._examples += examples
        self._tokens += tokens
        self._losses.append(loss)
        now = self._clock()
        seconds = max(1e-9, now - self._started)
        pace = _speed(max(1, self._examples) / seconds, "examples")
        if not self._bar.disable:
            self._bar.update(
                self._task,
                advance=1,
                status=f"loss {loss:.3f}  lr {learning_rate:.1e}  {pace}  "
                f"{self._tokens / seconds:,.0f} tokens/s",
            )
        elif self._visible and self._steps < self._num_steps and now - self._last >= self._every:
            self._last = now
            left = (self._num_steps - self._steps) * seconds / self._steps
            line_printer(self._console)(
                f"step {self._steps:,} of {self._num_steps:,}  "
                f"train loss {sum(self._losses) / len(self._losses):.4f}  {pace}  "
                f"{duration(left)} left"
            )
            self._losses.clear()

    def validation(self, step: int, loss: float, metrics: dict[str, float], best: bool) -> None:
        """Prints a validation's scores, and the mean training loss since the last validation."""
        if self._visible:
            shown = "  ".join(f"{name} {value:.4f}" for name, value in metrics.items())
            self._console.print(
                f"  step {step}  train loss {loss:.4f}  validation {shown}"
                + ("  [green]best so far[/]" if best else ""),
                highlight=False,
            )

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._bar.stop()


def _speed(per_second: float, unit: str) -> str:
    """Returns a speed as text: `64 rows/s`, or `2.5 s each` if below one unit per second."""
    if per_second >= 10:
        return f"{per_second:,.0f} {unit}/s"
    return f"{per_second:.1f} {unit}/s" if per_second >= 1 else f"{1 / per_second:.3g} s each"
