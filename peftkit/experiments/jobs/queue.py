"""Runs the parts of a comparison one after the other and prints the time left."""

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
from peftkit.experiments.jobs.done import Done, Result
from peftkit.experiments.jobs.folder import ComparisonFolder
from peftkit.experiments.jobs.own_process import DiedError, run_isolated
from peftkit.wording import duration


def _unchanged(result: Any, _: Path) -> Any:
    return result


@dataclass(frozen=True)
class Job(Generic[Result]):
    """A part of a comparison: a function to call in a separate process, and what to save."""

    part: str
    """Name of the part and of its files, such as `NAME/rate-0.001`."""
    cost: float
    """Approximate duration, in optimizer steps."""
    function: Callable[..., object]
    arguments: tuple[Any, ...]
    result: type[Result]
    """Type of the saved result."""
    folder: bool = False
    """Whether the function takes the path of the part's folder as its last argument."""
    keep: Callable[[Any, Path], Result] = _unchanged
    """Turns (the function's return value, the part's folder) into the result to save."""
    describe: Callable[[Result], str] = lambda _: ""
    """Formats the result for the console."""

    @property
    def contender(self) -> str:
        """Name of the contender to which the part belongs."""
        return self.part.split("/")[0]


@dataclass
class JobQueue:
    """Runs the jobs of a comparison in order, and records results and times."""

    folder: ComparisonFolder
    console: Console
    jobs: list[Job[Any]]
    """All jobs known so far, in the order in which they run."""
    seconds: float = 0.0
    """Total seconds of the parts done so far, including parts that earlier calls ran."""
    failures: dict[str, str] = field(default_factory=dict)
    """Name of a failed part -> why it failed."""
    incomplete: bool = False
    """Whether resuming the comparison would try a failed part again."""
    number: int = 0
    """Number of parts done or skipped so far."""
    _parts: list[str] = field(default_factory=list)
    _cold: float = 0.0
    """Seconds of start-up in the first job; the speed of jobs is computed without them."""
    _took: dict[str, tuple[float, float]] = field(default_factory=dict)
    """Contender -> (seconds, cost), summed over its parts that this call has run."""

    def do(self, job: Job[Result]) -> Done[Result]:
        """Runs a part, or reads its result if it is already done; returns the result."""
        done = self.folder.done(job.part, job.result)
        self._parts.append(job.part)
        took = None
        if done is None:
            begun = time.perf_counter()
            done = self._run(job)
            took = time.perf_counter() - begun
        self.number += 1
        if took is not None:
            seconds, cost = self._took.get(job.contender, (0.0, 0.0))
            if not self._took:  # the first part starts the process for forking
                self._cold = took / 2
            self._took[job.contender] = (seconds + took, cost + job.cost)
            self._print(job, done, took)
        self.seconds += done.seconds_taken
        if done.failed:
            self.failures[job.part] = done.reason
            self.incomplete |= done.died
        return done

    def last_done(self) -> datetime:
        """Time at which the latest part was finished."""
        files = [self.folder.file_of(part) for part in self._parts]
        latest = max((file.stat().st_mtime for file in files if file.is_file()), default=0.0)
        return datetime.fromtimestamp(latest).astimezone()

    def skip(self) -> None:
        """Skips a job that cannot be run, and counts it in `number`."""
        self.number += 1

    def _run(self, job: Job[Result]) -> Done[Result]:
        def make(folder: Path) -> Done[Result]:
            begun = time.perf_counter()
            more = (str(folder),) if job.folder else ()
            try:
                returned = run_isolated(job.function, *job.arguments, *more)
            except (DiedError, OutOfMemoryError):
                raise
            except (TrainingError, MethodError, AdapterError) as error:
                return Done(None, error.message, seconds_taken=time.perf_counter() - begun)
            result = job.keep(returned, folder)
            return Done(result, seconds_taken=time.perf_counter() - begun)

        try:
            return self.folder.finish(job.part, make)
        except (DiedError, OutOfMemoryError) as error:  # not saved, so that resuming tries again
            return Done(None, error.message, died=True)

    def _print(self, job: Job[Result], done: Done[Result], took: float) -> None:
        outcome = done.reason if done.value is None else job.describe(done.value)
        failed = "[yellow]failed:[/] " if done.failed else ""
        self.console.print(
            f"  [dim]{self.number}/{len(self.jobs)}[/] {job.part}  {failed}{escape(outcome)}"
            f"  [dim]{duration(took)}; {self._left()}[/]",
            highlight=False,
            soft_wrap=True,
        )

    def _left(self) -> str:
        """Says how long the unfinished parts will take, such as `about 5 min left`."""
        seconds, cost = (sum(column) for column in zip(*self._took.values(), strict=True))
        overall = max(0.0, seconds - self._cold) / cost
        left = 0.0
        for job in self.jobs[self.number :]:
            if not self.folder.file_of(job.part).is_file():
                took, done_cost = self._took.get(job.contender, (overall, 1.0))
                left += job.cost * took / done_cost
        return f"about {duration(left)} left" if left else "the last part"
