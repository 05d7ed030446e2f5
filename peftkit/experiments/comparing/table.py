"""The rows of a comparison, made from what its runs have left."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

from peftkit.experiments.comparing.grid import PROBE, Contender, Grid, precision
from peftkit.experiments.comparing.trained_out import is_trained_out
from peftkit.experiments.comparing.verdicts import difference, estimate, judge
from peftkit.tasks.task import ByExample
from peftkit.wording import plural

Json = dict[str, Any]
NEARLY = 0.01
"""A method is as good as there, on the way, when no more than this share is missing."""
MARGIN = 0.01
COLLAPSE = 0.1
"""Share of a trial's validation score that a run with all steps may lack, by chance."""
LEAST_SEEDS = 2
"""Runs of both that a verdict needs: one says nothing of the luck of others."""
GOOD_SEEDS = 3
MOST_POINTS = 200
"""Of a run's losses, kept for the picture."""


@dataclass(frozen=True)
class Runs:
    """What a contender's trials and runs have left."""

    contender: Contender
    rates: list[Json]
    """`learning_rate`, `value` (None if it failed), `failed`, `too_high`."""
    rate: float | None
    """The chosen one."""
    seeds: list[Json]
    """As `seed_result` gives them."""
    scores: list[ByExample]
    """Of the same runs."""
    failed: str
    """Why there are none."""
    merging_mb: float | None = None

    @property
    def by_seed(self) -> dict[int, ByExample]:
        """The scores of each seed."""
        return dict(zip((seed["seed"] for seed in self.seeds), self.scores, strict=True))


def seed_result(
    folder: Path, metric: str, steps_per_epoch: int, kept: Json, modules: Sequence[str]
) -> Json:
    """What the table needs of a run, from its run.json.

    Args:
        kept: `kept_loss`, the loss on general text after training, or None.
        modules: that the run's own task or method is in.
    """
    run = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    training = run["training"]
    trained = training["train_seconds"] - training["validation_seconds"]
    best = next(v for v in training["validations"] if v["step"] == training["best_step"])
    peaks = run["peaks_mb"]
    score = estimate([read_scores(folder, metric)])
    return {
        "seed": run["recipe"]["seed"],
        "folder": str(Path(*folder.parts[-3:])),
        "score": run["test"]["after"][metric],
        "interval": score.interval,
        "before": run["test"]["before"][metric],
        "guessed": run["test"]["baseline"].get("majority", {}).get(metric),
        "best_step": training["best_step"],
        "num_steps": training["num_steps"],
        "seconds_per_epoch": trained / training["num_steps"] * steps_per_epoch,
        "seconds_to_best": best["seconds"],
        "validations": [
            {"step": v["step"], "seconds": v["seconds"], "value": v["metrics"][metric]}
            for v in training["validations"]
        ],
        "history": [
            {"step": record["step"], "loss": record["loss"]}
            for record in training["history"][:: 1 + len(training["history"]) // MOST_POINTS]
        ],
        "peak_memory_mb": {
            "training": peaks["train"],
            "evaluation": peaks["evaluate"],
        },
        "forgetting": None,
        "kept_loss": kept["kept_loss"],
        "extra": run["test"]["answers"].get("after", {}),
        "trainable_parameters": run["trainable_parameters"],
        "total_parameters": run["total_parameters"],
        "adapter_bytes": run["adapter_bytes"],
        "precision": run["base"]["dtype"],
        "command": _command(folder, run["recipe"], modules),
    }


def _command(folder: Path, recipe: Json, modules: Sequence[str]) -> str:
    """What repeats a run: its contender's recipe, the rate that was chosen, and the seed."""
    file = folder.parents[2] / "recipes" / f"{recipe['name']}.json"
    training = recipe["training"]
    trusted = "".join(f"--trust-module {shlex.quote(module)} " for module in modules)
    again = f"again/{recipe['name']}-{recipe['seed']}"
    return (
        f"peftkit run {shlex.quote(str(file))} {trusted}"
        f"--training.learning-rate {training['learning_rate']!r} "
        f"--training.evaluate-every {training['evaluate_every']} --seed {recipe['seed']} "
        f"--output-dir {shlex.quote(again)}"
    )


def read_scores(folder: Path, metric: str) -> ByExample:
    """A run's scores of the test examples."""
    found = json.loads((folder / "by_example.json").read_text(encoding="utf-8"))
    return _scores(found, metric)


def _scores(by_example: Json, metric: str) -> ByExample:
    found = by_example[metric]
    return ByExample(tuple(found["values"]), tuple(found["weights"]))


def make_rows(
    grid: Grid, runs: Sequence[Runs], probe: Json | None, kept_by_base: Json
) -> list[Json]:
    """The table: the baseline, the methods by their score, the frozen probe.

    Args:
        probe: as `fit_probe` gives it.
        kept_by_base: `precision` -> loss of the untrained base on general text.
    """
    full = next(of for of in runs if of.contender.is_baseline)
    margin = margin_of(grid, full)
    rows = [_row(grid, of, full, margin, kept_by_base) for of in runs]
    for of, row in zip(runs, rows, strict=True):
        row["difference_to_probe"] = _to_probe(grid, of, probe, margin)
    first, others = rows[0], rows[1:]
    sign = -1 if grid.higher_is_better else 1
    others.sort(key=lambda row: (row["score"] is None, sign * (row["score"] or 0.0)))
    if probe:
        others.append(_probe_row(grid, probe, full, margin))
    return [first, *others]


def margin_of(grid: Grid, full: Runs) -> float:
    """Largest difference that does not matter."""
    if grid.budget.margin is not None:
        return grid.budget.margin
    if grid.higher_is_better or not full.scores:
        return MARGIN
    return MARGIN * estimate(full.scores).value


def _row(grid: Grid, of: Runs, full: Runs, margin: float, kept_by_base: Json) -> Json:
    contender, seeds = of.contender, of.seeds
    recipe = contender.recipe
    quantization = recipe.base.quantization
    row: Json = {
        "name": contender.name,
        "method": recipe.method.kind(),
        "role": "baseline" if contender.is_baseline else "method",
        "precision": quantization if quantization != "none" else recipe.base.dtype,
        "learning_rate": of.rate,
        "rates": of.rates,
        "seeds": seeds,
        **_judged(grid, of, full, margin),
        "trained_out": is_trained_out(seeds),
        "failed": of.failed,
        "forgetting": None,
        "extra": {},
        "command": seeds[0]["command"] if seeds else "",
    }
    if not seeds:
        empty = ("trainable_parameters", "total_parameters", "adapter_bytes", "seconds_per_epoch")
        more = ("seconds_to_best", "seconds_to_99_of_full", "peak_memory_mb")
        return {**row, **dict.fromkeys((*empty, *more))}
    if quantization == "none":
        row["precision"] = seeds[0]["precision"]
    if (kept := kept_by_base.get(precision(recipe.base))) is not None:
        seeds = [{**seed, "forgetting": seed["kept_loss"] - kept} for seed in seeds]
        row |= {"seeds": seeds, "forgetting": fmean(seed["forgetting"] for seed in seeds)}
    same = ("trainable_parameters", "total_parameters", "adapter_bytes")
    return {
        **row,
        **{name: seeds[0][name] for name in same},
        "seconds_per_epoch": fmean(seed["seconds_per_epoch"] for seed in seeds),
        "seconds_to_best": fmean(seed["seconds_to_best"] for seed in seeds),
        "seconds_to_99_of_full": _seconds_to_nearly(grid, of, full),
        "peak_memory_mb": {
            "training": max(seed["peak_memory_mb"]["training"] for seed in seeds),
            "evaluation": max(seed["peak_memory_mb"]["evaluation"] for seed in seeds),
            "merging": of.merging_mb,
        },
        "extra": {name: fmean(seed["extra"][name] for seed in seeds) for name in seeds[0]["extra"]},
    }


def best_rate(rates: Sequence[Json], higher_is_better: bool) -> float | None:
    """The rate with the best validation score, of equal ones that with the lowest loss; None if all
    failed.
    """
    sign = -1 if higher_is_better else 1
    whole = [rate for rate in rates if rate["value"] is not None]

    def goodness(rate: Json) -> tuple[float, float, float]:
        return sign * rate["value"], rate["loss"], rate["learning_rate"]

    best = min(whole, key=goodness, default=None)
    return None if best is None else float(best["learning_rate"])


def collapsed(run: Json, trial: float, higher_is_better: bool) -> bool:
    """Whether a run has failed, or its best validation score is much worse than that of a trial
    with the same rate and a quarter of the steps.
    """
    if run["failed"]:
        return not run.get("died", False)  # which says nothing of the rate
    values = [validation["value"] for validation in run["validations"]]
    best = max(values) if higher_is_better else min(values)
    lost = trial - best if higher_is_better else best - trial
    return bool(lost > COLLAPSE * abs(trial))


def _judged(grid: Grid, of: Runs, full: Runs, margin: float) -> Json:
    if not of.scores:
        nothing = dict.fromkeys(("score", "interval", "difference_to_full"))
        return {**nothing, "verdict": "failed"}
    own = estimate(of.scores)
    found: Json = {"score": own.value, "interval": own.interval, "difference_to_full": None}
    if of is full:
        return {**found, "verdict": "baseline"}
    pairs = paired(of.by_seed, full.by_seed)
    if not pairs:
        return {**found, "verdict": "undecided"}
    ours, others = zip(*pairs, strict=True)
    apart, verdict = _against(grid, ours, others, margin)
    return {**found, "difference_to_full": apart, "verdict": verdict}


def _against(
    grid: Grid, ours: Sequence[ByExample], others: Sequence[ByExample], margin: float
) -> tuple[Json, str]:
    """How much better, and the verdict; of one run there is none."""
    found = difference(ours, others)
    verdict = judge(found, margin, grid.higher_is_better)
    enough = len(others) >= LEAST_SEEDS
    told = {"value": found.value, "interval": found.interval}
    return told, verdict if enough else "undecided"


def paired(
    ours: Mapping[int, ByExample], others: Mapping[int, ByExample]
) -> list[tuple[ByExample, ByExample]]:
    """The scores of the seeds that both have."""
    return [(score, others[seed]) for seed, score in ours.items() if seed in others]


def _to_probe(grid: Grid, of: Runs, probe: Json | None, margin: float) -> Json | None:
    """How a contender compares with the frozen probe."""
    if probe is None or len(of.scores) < LEAST_SEEDS:
        return None
    others = [_scores(probe["by_example"], grid.metric)] * len(of.scores)
    apart, verdict = _against(grid, of.scores, others, margin)
    return {**apart, "verdict": verdict}


def _seconds_to_nearly(grid: Grid, of: Runs, full: Runs) -> float | None:
    """Mean training time until the validation score has 99 % of full fine-tuning's best; None if a
    seed never has.
    """
    if not full.seeds:
        return None
    choose = max if grid.higher_is_better else min
    best = fmean(choose(v["value"] for v in seed["validations"]) for seed in full.seeds)
    wanted = best * (1 - NEARLY if grid.higher_is_better else 1 + NEARLY)
    times = []
    for seed in of.seeds:
        reached = [
            v["seconds"] for v in seed["validations"]
            if (v["value"] >= wanted if grid.higher_is_better else v["value"] <= wanted)
        ]  # fmt: skip
        if not reached:
            return None
        times.append(reached[0])
    return fmean(times)


def _probe_row(grid: Grid, probe: Json, full: Runs, margin: float) -> Json:
    scores = _scores(probe["by_example"], grid.metric)
    own = estimate([scores])
    row: Json = {
        "name": PROBE,
        "method": "logistic regression",
        "role": "probe",
        "precision": "float32",
        "learning_rate": None,
        "regularization": probe["regularization"],
        "rates": [],
        "seeds": [
            {
                "seed": None,
                "score": own.value,
                "interval": own.interval,
                "validations": [],
                "history": [],
                "command": probe["command"],
            }
        ],
        "score": own.value,
        "interval": own.interval,
        "difference_to_full": None,
        "difference_to_probe": None,
        "verdict": "undecided",
        "trained_out": None,
        "failed": "",
        "trainable_parameters": probe["trainable_parameters"],
        "total_parameters": None,
        "adapter_bytes": 4 * probe["trainable_parameters"],
        "seconds_per_epoch": None,
        "seconds_to_best": probe["seconds"],
        "seconds_to_99_of_full": None,
        "peak_memory_mb": {**probe["peaks_mb"], "merging": None},
        "forgetting": None,
        "extra": {},
        "command": probe["command"],
    }
    if len(full.scores) >= LEAST_SEEDS:
        apart, verdict = _against(grid, [scores] * len(full.scores), full.scores, margin)
        row |= {"difference_to_full": apart, "verdict": verdict}
    return row


def probe_command(recipe: Path) -> str:
    """What repeats the probe."""
    return f"python -m peftkit.experiments.comparing.probe {shlex.quote(str(recipe))}"


def has_learned(grid: Grid, of: Runs, margin: float) -> bool:
    """Whether a contender is better, by more than the margin, than before training and than
    guessing one label, as far as these are known.
    """
    known = [seed[name] for seed in of.seeds for name in ("before", "guessed")]
    sign = 1 if grid.higher_is_better else -1
    trivial = max((sign * score for score in known if score is not None), default=None)
    return trivial is None or sign * estimate(of.scores).value - trivial > margin


def notes_of(grid: Grid, rows: Sequence[Json], failures: Mapping[str, str]) -> list[str]:
    """What a reader should know about the rows.

    Args:
        failures: part -> why it could not be done.
    """
    notes = [f"{part} failed: {reason}" for part, reason in failures.items()]
    if grid.budget.num_seeds < LEAST_SEEDS:
        notes.append("one run of each is no ground for a verdict")
    elif grid.budget.num_seeds < GOOD_SEEDS:
        notes.append(
            "two runs of each tell hardly anything of the luck of seeds: intervals are wide"
        )
    for row in rows:
        for rate in row["rates"]:
            if rate["too_high"]:
                told = f"{rate['learning_rate']:g} is the best rate of {row['name']} in its trials"
                notes.append(f"{told}, and too high for all steps: the next lower one was taken")
        known = [rate["learning_rate"] for rate in row["rates"]]
        if len(known) > 1 and row["learning_rate"] in (min(known), max(known)):
            end = "smallest" if row["learning_rate"] == min(known) else "largest"
            notes.append(f"the best rate of {row['name']} is the {end} that was tried")
        if row["seeds"] and len(row["seeds"]) < grid.budget.num_seeds and row["role"] != "probe":
            notes.append(
                f"{row['name']} has {len(row['seeds'])} of {plural(grid.budget.num_seeds, 'run')}"
            )
    return notes
