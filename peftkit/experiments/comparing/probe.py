"""Fits the frozen probe of a comparison on all training rows.

`python -m peftkit.experiments.comparing.probe RECIPE.json` fits the probe again.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed

from peftkit.bases.devices import open_accelerator
from peftkit.evaluation import frozen_probe
from peftkit.evaluation.features import FrozenBase, read_features
from peftkit.evaluation.frozen_probe import Part
from peftkit.recipe import Recipe
from peftkit.stages.fitting import engine_of, load
from peftkit.stages.outcome import Clock
from peftkit.stages.preparing import Prepared, prepare
from peftkit.tasks.score import Parts


@dataclass(frozen=True)
class ProbeScore:
    """The result of fitting and scoring the frozen probe."""

    regularization: float
    """Inverse strength of the L2 penalty, chosen on the validation split."""
    tried: list[dict[str, float]]
    """One dictionary for each strength of the penalty that was tried: the inverse strength as
    `regularization`, the validation score as `value`."""
    metrics: dict[str, float]
    """Scores on the test split, by name."""
    parts: dict[str, Parts]
    trainable_parameters: int
    seconds: float
    peaks_mb: dict[str, float]
    """`evaluation` or `training` -> peak memory in MB."""
    command: str = ""
    """The command that fits the probe again."""


def fit_probe(prepared: Prepared, accelerator: Accelerator) -> ProbeScore:
    """Fits the probe on the training rows, chooses it on validation, and scores it once on test."""
    recipe, encoded = prepared.recipe, prepared.encoded
    clock = Clock(accelerator.device)
    set_seed(recipe.seed)
    begun = time.perf_counter()
    with clock.stage("evaluation"):
        loaded = load(prepared, accelerator)
        base = FrozenBase(loaded.head, engine_of(loaded.model, prepared, accelerator))
        parts = [Part(read_features(base, split), split) for split in encoded.splits().values()]
    with clock.stage("training"):
        fitted = frozen_probe.fit_probe(parts, recipe.task, encoded.head, recipe.metric)
    return ProbeScore(
        regularization=fitted.regularization,
        tried=fitted.tried,
        metrics=fitted.score.metrics,
        parts=fitted.score.parts,
        trainable_parameters=fitted.num_parameters,
        seconds=time.perf_counter() - begun,
        peaks_mb=clock.peaks_mb,
    )


if __name__ == "__main__":  # repeats the probe of a comparison
    recipe = Recipe.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    fitted = fit_probe(prepare(recipe), open_accelerator(recipe.base))
    print(json.dumps({"metrics": fitted.metrics, "regularization": fitted.regularization}))
