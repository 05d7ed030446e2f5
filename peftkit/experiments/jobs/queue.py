"""A comparison on its way: does its parts one by one, each once, and tells the time left."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any, Generic

from rich.console import Console
from rich.markup import escape

from peftkit.errors import AdapterError, MethodError, OutOfMemoryError, TrainingError
from peftkit.experiments.jobs.done import Done, Given
from peftkit.experiments.jobs.folder import ComparisonFolder
from peftkit.experiments.jobs.own_process import DiedError, run_isolated
from peftkit.wording import duration


def _as_given(given: Any, _: Path) -> Any:
    return given


@dataclass(frozen=True)
class Job(Generic[Given]):
    """A part of a comparison that a process of its own does."""

    part: str
    """Under which it is kept: `NAME/rate-0.001`."""
    cost: float
    """About how long it takes, in optimizer steps."""
    does: Callable[..., object]
    arguments: tuple[Any, ...]
    gives: type[Given]
    """What is kept of it."""
    folder: bool = False
    """Whether it is given, as a further argument, a folder to write to."""
    keep: Callable[[Any, Path], Given] = _as_given
    """Makes what is kept of what the process gave, and of the files in its folder."""
    describe: Callable[[Given], str] = lambda _: ""
    """What a person reads of what is kept."""

    @property
    def contender(self) -> str:
        """Whose part it is."""
        return self.part.split("/")[0]


@dataclass
class JobQueue:
    """Does jobs, and remembers how long they took."""

    folder: ComparisonFolder
    console: Console
    jobs: list[Job[Any]]
    """All of them, as far as they are known."""
    seconds: float = 0.0
    """Of all parts, those of earlier times too."""
    failures: dict[str, str] = field(default_factory=dict)
    """Part -> why it could not be done."""
    incomplete: bool = False
    """Whether one of them is tried again when the comparison is gone on with."""
    number: int = 0
    """Of parts that are through."""
    _parts: list[str] = field(default_factory=list)
    _cold: float = 0.0
    _took: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Contender -> seconds and cost of what was done now."""

    def do(self, job: Job[Given]) -> Done[Given]:
        """What comes of a part; if it is done already, what came of it."""
        done = self.folder.done(job.part, job.gives)
        self._parts.append(job.part)
        took = None
        if done is None:
            begun = time.perf_counter()
            done = self._done_now(job)
            took = time.perf_counter() - begun
        self.number += 1
        if took is not None:
            seconds, cost = self._took.get(job.contender, (0.0, 0.0))
            if not self._took:  # the first starts the process that others are forked from
                self._cold = took / 2
            self._took[job.contender] = (seconds + took, cost + job.cost)
            self._tell(job, done, took)
        self.seconds += done.seconds_taken
        if done.failed:
            self.failures[job.part] = done.reason
            self.incomplete |= done.died
        return done

    def last_done(self) -> datetime:
        """When the last part was finished."""
        files = [self.folder.file_of(part) for part in self._parts]
        latest = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
        return datetime.fromtimestamp(latest).astimezone()

    def skip(self) -> None:
        """Passes over a job that cannot be done."""
        self.number += 1

    def _done_now(self, job: Job[Given]) -> Done[Given]:
        def make(folder: Path) -> Done[Given]:
            begun = time.perf_counter()
            more = (str(folder),) if job.folder else ()
            try:
                given = run_isolated(job.does, *job.arguments, *more)
            except (DiedError, OutOfMemoryError):
                raise
            except (TrainingError, MethodError, AdapterError) as error:
                return Done(None, error.message, seconds_taken=time.perf_counter() - begun)
            kept = job.keep(given, folder)
            return Done(kept, seconds_taken=time.perf_counter() - begun)

        try:
            return self.folder.finish(job.part, make)
        except (DiedError, OutOfMemoryError) as error:  # may go better another time: not kept
            return Done(None, error.message, died=True)

    def _tell(self, job: Job[Given], done: Done[Given], took: float) -> None:
        told = done.reason if done.value is None else job.describe(done.value)
        failed = "[yellow]failed:[/] " if done.failed else ""
        self.console.print(
            f"  [dim]{self.number}/{len(self.jobs)}[/] {job.part}  {failed}{escape(told)}"
            f"  [dim]{duration(took)}; {self._left()}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def _left(self) -> str:
        """About how long the parts take that are not done."""
        seconds, cost = (sum(column) for column in zip(*self._took.values(), strict=True))
        overall = max(0.0, seconds - self._cold) / cost
        left = 0.0
        for job in self.jobs[self.number :]:
            if not self.folder.file_of(job.part).is_file():
                own, of = self._took.get(job.contender, (overall, 1.0))
                left += job.cost * own / of
        return f"about {duration(left)} left" if left else "the last part"
