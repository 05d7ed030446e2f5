"""The frozen probe: a logistic regression on what the untrained base gives the task's head.

    p = softmax(C f(x))         f frozen; C chosen on the validation rows among seven strengths

A fine-tuned model that scores below the probe of its own base has lost (Alain & Bengio 2016,
arXiv:1610.01644): training costs more, and gave less.
"""

from __future__ import annotations

import json
import sys
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from peftkit.bases.loading import LoadedModel
from peftkit.data.encoded import Encoded, Examples
from peftkit.fitting import load
from peftkit.outcome import Clock
from peftkit.preparing import Prepared, prepare
from peftkit.recipe import Recipe
from peftkit.tasks.task import Score, Task
from peftkit.training.batching import inference_batches
from peftkit.training.collating import collate, to_device
from peftkit.training.devices import open_accelerator
from peftkit.training.reading import Reader

Floats = npt.NDArray[np.float32]
STRENGTHS = (0.01, 0.1, 1.0, 10.0, 100.0, 1000.0, 10000.0)
"""Inverse strengths of the L2 penalty on features of mean norm 1."""

UNSEEN = -100.0
"""Log-probability of a label that no training row has."""


def has_probe(task: Task) -> bool:
    """Whether a task has a head, and what it reads is one position of each example."""
    return task.task_type == "SEQ_CLS"


def fit_probe(prepared: Prepared, accelerator: Accelerator) -> dict[str, Any]:
    """Fits on the training rows, chooses by the validation rows, scores the test rows once."""
    from sklearn.linear_model import LogisticRegression

    recipe, encoded = prepared.recipe, prepared.encoded
    metric = recipe.metric
    clock = Clock(accelerator.device)
    set_seed(recipe.seed)
    begun = time.perf_counter()
    with clock.stage("evaluation"):
        loaded = load(prepared, accelerator)
        train, validation, test = _features(loaded, encoded, recipe, accelerator)
    scale = np.linalg.norm(train, axis=1).mean()
    train, validation, test = train / scale, validation / scale, test / scale
    targets = _targets(encoded.train)
    weights = None if encoded.train.weights is None else np.concatenate(encoded.train.weights)
    best: tuple[float, float, Any] | None = None
    tried = []
    with clock.stage("training"):
        for strength in STRENGTHS:
            fitted = LogisticRegression(C=strength, max_iter=2000).fit(
                train, targets, sample_weight=weights
            )
            judged = _judged(fitted, validation, encoded.validation, prepared)
            value = judged.metrics[metric]
            tried.append({"regularization": strength, "value": value})
            goodness = -value if metric == "loss" else value
            if best is None or goodness > best[0]:
                best = (goodness, strength, fitted)
    assert best is not None
    _, strength, fitted = best
    score = _judged(fitted, test, encoded.test, prepared)
    return {
        "regularization": strength,
        "tried": tried,
        "metrics": score.metrics,
        "by_example": {name: asdict(of) for name, of in score.by_example.items()},
        "trainable_parameters": int(fitted.coef_.size + fitted.intercept_.size),
        "seconds": time.perf_counter() - begun,
        "peaks_mb": clock.peaks_mb,
    }


def _features(
    loaded: LoadedModel, encoded: Encoded, recipe: Recipe, accelerator: Accelerator
) -> tuple[Floats, ...]:
    """What the last linear layer of the head would read, (examples, d) of each split.

    The head's own linear layers are random: they are left out.
    """
    for name, module in list(loaded.model.named_modules()):
        in_head = any(f"{name}.".startswith(f"{part}.") for part in loaded.head)
        if in_head and isinstance(module, nn.Linear):
            parent, _, last = name.rpartition(".")
            setattr(loaded.model.get_submodule(parent), last, nn.Identity())
    reader = Reader(loaded.model.eval(), recipe.task.reads)
    tokens, found = recipe.training.micro_batch_tokens, []
    for examples in encoded.splits().values():
        rows: list[torch.Tensor] = [torch.empty(0)] * len(examples)
        with torch.inference_mode(), accelerator.autocast():
            for indices in inference_batches(examples, tokens):
                batch = collate(examples, indices, recipe.task.reads, encoded.pad_token_id)
                with reader.ready(to_device(batch, accelerator.device)) as given:
                    outputs = torch.cat([part.float() for _, part in reader.outputs(given)])
                for index, row in zip(indices, outputs.cpu(), strict=True):
                    rows[index] = row
        found.append(torch.stack(rows).numpy())
    return tuple(found)


def _targets(examples: Examples) -> npt.NDArray[np.int64]:
    return np.concatenate(list(examples.targets))


def _judged(fitted: Any, features: Floats, examples: Examples, prepared: Prepared) -> Score:
    """The task's score of the regression, its mean loss among the metrics."""
    head = prepared.encoded.head
    outputs = np.full((len(features), len(head.labels)), UNSEEN, np.float32)
    least = np.exp(UNSEEN, dtype=np.float64)
    outputs[:, fitted.classes_] = np.log(np.maximum(fitted.predict_proba(features), least))
    score = prepared.recipe.task.metrics(outputs, examples, head)
    losses = score.by_example["loss"]
    loss = sum(losses.values) / sum(losses.weights)
    return replace(score, metrics={**score.metrics, "loss": loss})


if __name__ == "__main__":  # what repeats the row of a comparison
    recipe = Recipe.from_json(Path(sys.argv[1]).read_text(encoding="utf-8"))
    found = fit_probe(prepare(recipe), open_accelerator(recipe.base))
    print(json.dumps({name: found[name] for name in ("metrics", "regularization")}))
