"""What the processes of a comparison do: try a rate, run a seed, merge, score the frozen base."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import set_seed
from rich.console import Console

from peftkit.adapters.loading import load as load_adapter
from peftkit.adapters.merged_folder import merge_to
from peftkit.comparing.probe import fit_probe
from peftkit.errors import DataError
from peftkit.evaluation.retention import Retention, load_texts, text_loss
from peftkit.fitting import choose_trained, fit, inject, load
from peftkit.outcome import Clock
from peftkit.parts import import_trusted
from peftkit.preparing import Prepared, prepare
from peftkit.recipe import Recipe
from peftkit.run import run
from peftkit.training.devices import open_accelerator


def try_rate(recipe: str, trusted: Sequence[str], data: str) -> dict[str, Any]:
    """Trains without a look at the test rows, and leaves its best validation score only."""
    prepared = _prepared(recipe, trusted, data)
    accelerator = open_accelerator(prepared.recipe.base)
    set_seed(prepared.recipe.seed)
    model = inject(load(prepared, accelerator), prepared)
    chosen = choose_trained(model, prepared, accelerator)
    clock, quiet = Clock(accelerator.device), Console(quiet=True)
    with clock.stage("train"):
        result = fit(chosen.reader, prepared, accelerator, clock, quiet)
    best = next(of for of in result.validations if of.step == result.best_step)
    return {
        "value": result.best_value,
        "loss": best.metrics["loss"],
        "best_step": result.best_step,
        "num_steps": result.num_steps,
    }


def run_seed(
    recipe: str, trusted: Sequence[str], data: str, retention: Retention | None, folder: str
) -> dict[str, Any]:
    """An ordinary run; and its model's loss on general text."""
    _import(trusted)
    record = run(Recipe.from_json(recipe), folder, frozen_probe=False).record
    _check_data(record["data_sha256"], data)
    if retention is None:
        return {"kept_loss": None}
    adapter = load_adapter(folder)
    loss = text_loss(
        adapter.model,
        adapter.tokenizer,
        load_texts(retention),
        retention.max_length,
        adapter.accelerator,
    )
    return {"kept_loss": loss}


def score_frozen(recipe: str, trusted: Sequence[str], data: str) -> dict[str, Any]:
    """The score of a logistic regression on what the frozen base gives."""
    prepared = _prepared(recipe, trusted, data)
    return fit_probe(prepared, open_accelerator(prepared.recipe.base))


def loss_of_base(
    recipe: str, trusted: Sequence[str], data: str, retention: Retention
) -> dict[str, Any]:
    """Loss of the untrained base on general text."""
    prepared = _prepared(recipe, trusted, data)
    accelerator = open_accelerator(prepared.recipe.base)
    model = load(prepared, accelerator).model.eval()
    texts, tokenizer = load_texts(retention), prepared.base.tokenizer
    return {"kept_loss": text_loss(model, tokenizer, texts, retention.max_length, accelerator)}


def measure_merge(trusted: Sequence[str], run_folder: str, folder: str) -> dict[str, Any]:
    """Most memory while an adapter is merged, its proof included; the merged model is dropped."""
    _import(trusted)
    report = merge_to(run_folder, folder)
    shutil.rmtree(folder)
    return {"peak_memory_mb": report["peak_memory_mb"]}


def _prepared(recipe: str, trusted: Sequence[str], data: str) -> Prepared:
    _import(trusted)
    prepared = prepare(Recipe.from_json(recipe))
    torch.set_num_threads(prepared.recipe.training.threads or 1)  # the process is its own
    _check_data(prepared.encoded.sha256, data)
    return prepared


def _check_data(found: str, wanted: str) -> None:
    """Raises DataError if the rows are not those with which the comparison began."""
    if wanted and found != wanted:
        raise DataError(
            "the data was changed while methods were compared on it",
            "put it back as it was, or compare anew with another `--output-dir`",
        )


def _import(trusted: Sequence[str]) -> None:
    for file in trusted:
        import_trusted(file)
