"""Functions that jobs of a comparison call: fit the probe, score the base, merge a run."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.bases.devices import open_accelerator
from peftkit.deploy.merging.merge import merge_to
from peftkit.evaluation.retention import Retention, load_texts, text_loss
from peftkit.experiments.comparing.probe import ProbeScore, fit_probe
from peftkit.experiments.jobs.work import KeptLoss, import_files, prepare_job
from peftkit.stages.fitting import load


@dataclass(frozen=True)
class MergePeak:
    """Peak memory of a merge and of the check of the merged model."""

    peak_memory_mb: float


def score_frozen(recipe: str, trusted: Sequence[str], data: str) -> ProbeScore:
    """Fits and scores the frozen probe: a logistic regression on the frozen base's features."""
    prepared = prepare_job(recipe, trusted, data)
    return fit_probe(prepared, open_accelerator(prepared.recipe.base))


def loss_of_base(recipe: str, trusted: Sequence[str], data: str, retention: Retention) -> KeptLoss:
    """Measures the untrained base's loss on general text."""
    prepared = prepare_job(recipe, trusted, data)
    accelerator = open_accelerator(prepared.recipe.base)
    model = load(prepared, accelerator).model.eval()
    texts, tokenizer = load_texts(retention), prepared.base.tokenizer
    return KeptLoss(text_loss(model, tokenizer, texts, retention.max_length, accelerator))


def measure_merge(trusted: Sequence[str], run_folder: str, folder: str) -> MergePeak:
    """Merges a run's adapter, checks and deletes the merged model; returns the peak memory."""
    import_files(trusted)
    report = merge_to(run_folder, folder)
    shutil.rmtree(folder)
    return MergePeak(report.peak_memory_mb)
