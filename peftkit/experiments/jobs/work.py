"""Functions that jobs call: try a learning rate, make a run with a seed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from accelerate.utils import set_seed
from rich.console import Console

from peftkit.adapters.loading import load as load_adapter
from peftkit.bases.devices import open_accelerator
from peftkit.bases.products import use_fast_products
from peftkit.errors import DataError
from peftkit.evaluation.retention import Retention, load_texts, text_loss
from peftkit.parts.scripts import import_trusted
from peftkit.recipe import Recipe
from peftkit.run import run
from peftkit.stages.fitting import choose_trained, engine_of, fit, inject, load, with_start_values
from peftkit.stages.outcome import Clock
from peftkit.stages.preparing import Prepared, prepare


@dataclass(frozen=True)
class Trial:
    """The result of trying a learning rate."""

    value: float
    """The best validation score."""
    loss: float
    """The validation loss at the step of the best score."""
    best_step: int
    num_steps: int


@dataclass(frozen=True)
class KeptLoss:
    """A model's loss on general text, in nats per token; None if it is not measured."""

    kept_loss: float | None


def try_rate(recipe: str, trusted: Sequence[str], data: str) -> Trial:
    """Trains a recipe; returns its best validation score and loss. Test rows are not scored."""
    prepared = prepare_job(recipe, trusted, data)
    accelerator = open_accelerator(prepared.recipe.base)
    set_seed(prepared.recipe.seed)
    loaded = load(prepared, accelerator)
    model = inject(loaded, prepared)
    prepared = with_start_values(engine_of(model, prepared, accelerator), prepared)
    chosen = choose_trained(model, prepared, accelerator)
    clock, quiet = Clock(accelerator.device), Console(quiet=True)
    with clock.stage("train"):
        result = fit(chosen.engine, prepared, clock, quiet, loaded.head)
    best = next(v for v in result.validations if v.step == result.best_step)
    return Trial(result.best_value, best.metrics["loss"], result.best_step, result.num_steps)


def run_seed(
    recipe: str, trusted: Sequence[str], data: str, retention: Retention | None, folder: str
) -> KeptLoss:
    """Makes a run of a recipe in a folder; returns the trained model's loss on general text."""
    import_files(trusted)
    record = run(Recipe.from_json(recipe), folder, frozen_probe=False).record
    assert record is not None  # None only outside the main process
    check_data(record.data_sha256, data)
    if retention is None:
        return KeptLoss(None)
    adapter = load_adapter(folder)
    loss = text_loss(
        adapter.model,
        adapter.tokenizer,
        load_texts(retention),
        retention.max_length,
        adapter.accelerator,
    )
    return KeptLoss(loss)


def prepare_job(recipe: str, trusted: Sequence[str], data: str) -> Prepared:
    """Prepares a job's recipe, checks its data and sets the process's number of threads."""
    import_files(trusted)
    prepared = prepare(Recipe.from_json(recipe))
    torch.set_num_threads(prepared.recipe.training.threads or 1)  # the process is the job's own
    use_fast_products()
    check_data(prepared.encoded.sha256, data)
    return prepared


def check_data(digest: str, expected: str) -> None:
    """Raises DataError if the data has changed since the comparison began."""
    if expected and digest != expected:
        raise DataError(
            "the data was changed while methods were compared on it",
            "restore the data, or start a new comparison with another `--output-dir`",
        )


def import_files(trusted: Sequence[str]) -> None:
    """Imports the modules with the user's own tasks and methods."""
    for file in trusted:
        import_trusted(file)
