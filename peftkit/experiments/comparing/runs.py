"""The results of a contender's trials and runs, read from their files."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from peftkit.errors import OutputError
from peftkit.evaluation.lead import guesses
from peftkit.experiments.comparing.comparison import LossPoint, Rate, SeedRun, ValidationPoint
from peftkit.experiments.comparing.grid import Contender
from peftkit.experiments.comparing.verdicts import estimate
from peftkit.experiments.jobs.work import KeptLoss
from peftkit.metrics.metric import Metric
from peftkit.parts.records import from_json
from peftkit.recipe import Recipe
from peftkit.reports.run_record import read_run
from peftkit.tasks.score import Parts

MOST_POINTS = 200
"""Maximum number of a run's training losses in compare.json."""


@dataclass(frozen=True)
class Runs:
    """The results of a contender's trials and runs."""

    contender: Contender
    rates: tuple[Rate, ...]
    rate: float | None
    """The learning rate of the runs; None if no rate was chosen."""
    seeds: tuple[SeedRun, ...]
    scores: tuple[Parts, ...]
    """For each run in `seeds`, what each test row adds to the run's score."""
    failed: str
    """Why there are no runs; empty if there are runs."""
    merging_mb: float | None = None

    @property
    def by_seed(self) -> dict[int, Parts]:
        """Seed -> what each test row adds to the score of the run with this seed."""
        return dict(zip((run.seed for run in self.seeds), self.scores, strict=True))


def seed_run(
    recipe: Recipe,
    metric: Metric,
    steps_per_epoch: int,
    modules: Sequence[str],
    kept: KeptLoss,
    folder: Path,
) -> SeedRun:
    """Reads a run's results for compare.json from the files in its folder.

    Args:
        recipe: the recipe of the run.
        modules: the modules that define the user's own task or method.
        kept: the loss on general text after training.
        folder: the run folder.
    """
    run = read_run(folder)
    training, test, name = run.training, run.test, metric.name
    guessed = [scores[name] for scores in guesses(test.baseline).values() if name in scores]
    best = next(v for v in training.validations if v.step == training.best_step)
    return SeedRun(
        seed=recipe.seed,
        folder=str(Path(*folder.parts[-3:])),
        score=test.after[name],
        interval=estimate([read_scores(folder, metric)], metric).interval,
        before=test.before[name],
        guessed=metric.best(guessed) if guessed else None,
        best_step=training.best_step,
        num_steps=training.num_steps,
        seconds_per_epoch=training.learning_seconds / training.num_steps * steps_per_epoch,
        seconds_to_best=best.seconds,
        validations=tuple(
            ValidationPoint(v.step, v.seconds, v.metrics[name]) for v in training.validations
        ),
        history=tuple(
            LossPoint(record.step, record.loss)
            for record in training.history[:: 1 + len(training.history) // MOST_POINTS]
        ),
        peak_memory_mb={
            "training": run.peaks_mb["train"],
            "evaluation": run.peaks_mb["evaluate"],
        },
        kept_loss=kept.kept_loss,
        extra={name: test.after[name] for name in test.of_samples},
        trainable_parameters=run.trainable_parameters,
        total_parameters=run.total_parameters,
        adapter_bytes=run.adapter_bytes,
        precision=run.base.dtype,
        command=_command(folder, recipe, modules),
    )


def _command(folder: Path, recipe: Recipe, modules: Sequence[str]) -> str:
    """The command that repeats a run: a `peftkit run` with the run's recipe, rate and seed."""
    file = folder.parents[2] / "recipes" / f"{recipe.name}.json"
    training = recipe.training
    trusted = "".join(f"--trust-module {shlex.quote(module)} " for module in modules)
    again = f"again/{recipe.name}-{recipe.seed}"
    return (
        f"peftkit run {shlex.quote(str(file))} {trusted}"
        f"--training.learning-rate {training.learning_rate!r} "
        f"--training.evaluate-every {training.evaluate_every} --seed {recipe.seed} "
        f"--output-dir {shlex.quote(again)}"
    )


def probe_command(recipe: Path) -> str:
    """The command that fits the frozen probe again."""
    return f"python -m peftkit.experiments.comparing.probe {shlex.quote(str(recipe))}"


def read_scores(folder: Path, metric: Metric) -> Parts:
    """Reads what each test row adds to a run's score.

    Raises:
        OutputError: by_example.json is missing, as when the run's folder was deleted.
    """
    file = folder / "by_example.json"
    if not file.is_file():
        raise OutputError(
            f"no file `{file}`, though this run is marked as done",
            "put the run's folder back, or give another `--output-dir`",
        )
    parts = json.loads(file.read_text(encoding="utf-8"))
    return from_json(Parts, parts[metric.name])
