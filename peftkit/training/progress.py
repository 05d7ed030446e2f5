"""What a person sees while training runs."""

from __future__ import annotations

import time
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeRemainingColumn,
)


class TrainingProgress:
    """A bar with loss, learning rate, speed and time left; on a plain file only the validations."""

    def __init__(self, console: Console, num_steps: int, visible: bool) -> None:
        self._console = console
        self._visible = visible
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
        self._examples = self._tokens = 0
        self._started = time.perf_counter()

    def step(self, loss: float, learning_rate: float, examples: int, tokens: int) -> None:
        """After an optimizer step over so many examples and (unpadded) tokens."""
        self._examples += examples
        self._tokens += tokens
        seconds = time.perf_counter() - self._started
        status = (
            f"loss {loss:.3f}  lr {learning_rate:.1e}  "
            f"{self._examples / seconds:,.0f} examples/s  {self._tokens / seconds:,.0f} tokens/s"
        )
        self._bar.update(self._task, advance=1, status=status)

    def validation(self, step: int, loss: float, metrics: dict[str, float], best: bool) -> None:
        """After a score on the validation split."""
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
