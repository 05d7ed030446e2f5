"""Read this file first: it runs every step from a recipe to a checked adapter.

    recipe -> splits -> opened base -> encoded examples -> weights -> score before -> inject
           -> train -> score after -> adapter -> receipt

Each step only uses results of earlier steps. `prepare` (stages/preparing.py) takes the steps up to
encoded examples and finds every error that can be found without weights; `peftkit check` runs
only these. `train_and_score` (stages/fitting.py) takes the steps from weights to score after. `run`
takes all steps.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from rich.console import Console
from torch import nn

from peftkit.adapters.card import VALIDATED, write_card
from peftkit.adapters.folders import UNFINISHED
from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.probes import take_probes, tolerance
from peftkit.adapters.record import (
    Record,
    chat_template_sha256,
    config_digests,
    published_recipe,
    tensor_digests,
    tokenizer_sha256,
    versions,
)
from peftkit.adapters.saving import check_saved, write_weights
from peftkit.atomic import write_json
from peftkit.bases.devices import frozen_gc, open_accelerator, release_memory, weights_dtype
from peftkit.bases.fingerprint import recorded_base
from peftkit.bases.products import fast_products
from peftkit.deploy.exporting.commands import commands
from peftkit.errors import Interrupted, first_line
from peftkit.methods.peft.adapter_config import read_config
from peftkit.parts.records import to_json
from peftkit.recipe import Recipe
from peftkit.reports.console import print_ledger, print_scores
from peftkit.reports.plan_record import Plan, Unplanned
from peftkit.reports.receipt import write_receipt
from peftkit.reports.run_record import RUN_FILE, RunRecord
from peftkit.reports.terminal import print_note
from peftkit.stages.early import Rows
from peftkit.stages.fitting import Unfinished, train_and_score
from peftkit.stages.outcome import Clock
from peftkit.stages.plan import make_plan
from peftkit.stages.preparing import Prepared, prepare
from peftkit.stages.recording import make_record
from peftkit.stages.run_folder import check_output, output_folder
from peftkit.tasks.answers import Decision
from peftkit.training.forward.steps import number_of_steps
from peftkit.training.interruptions import interruptible
from peftkit.training.threads import cpu_threads


@dataclass(frozen=True)
class Run:
    """A finished run: its folder and record."""

    folder: Path
    record: RunRecord | None
    """The content of run.json; None outside the main process."""


def plan(prepared: Prepared, accelerator: Accelerator, *, timed: bool) -> Plan:
    """Estimates the run's memory and time; see `make_plan`."""
    return make_plan(
        prepared.recipe,
        prepared.base,
        prepared.encoded,
        (prepared.trainable_parameters, prepared.total_parameters),
        accelerator,
        timed=timed,
    )


def plan_if_possible(
    prepared: Prepared, accelerator: Accelerator, console: Console
) -> Plan | Unplanned:
    """Estimates a run's memory. If the estimate fails, prints a note and returns the reason."""
    if not accelerator.is_main_process:
        return Unplanned("planned by the main process")
    try:
        planned = plan(prepared, accelerator, timed=False)
    except Exception as error:  # unusual architectures may fail in any way
        reason = f"{type(error).__name__}: {first_line(error)}"
        print_note(console, f"memory cannot be planned: {reason}")
        return Unplanned(reason)
    for note in planned.notes:
        print_note(console, note)
    return planned


@frozen_gc()
def run(
    recipe: Recipe,
    output_dir: str = "",
    console: Console | None = None,
    frozen_probe: bool = True,
    rows: Rows | None = None,
) -> Run:
    """Trains a recipe; writes the checked adapter, its record and its receipt into a new folder.

    Args:
        output_dir: a folder that does not exist yet, or is empty; `runs/<name>` if not given.
        console: where progress is printed; nowhere if not given.
        frozen_probe: for a classifier, whether to fit a probe on the frozen base.
        rows: the recipe's rows, if `check_early` has already read them.

    Raises:
        PeftkitError: the run failed; its subclasses say how. The run folder is removed unless an
            adapter was saved.
    """
    console = console or Console(quiet=True)
    clock = Clock()
    with clock.stage("prepare"):
        check_output(output_dir)
        prepared = prepare(recipe, rows)
    with cpu_threads(prepared.recipe.training.threads or 1), fast_products():
        return _run(prepared, output_dir, console, clock, frozen_probe)


def _run(
    prepared: Prepared, output_dir: str, console: Console, clock: Clock, frozen_probe: bool
) -> Run:
    recipe = prepared.recipe
    with clock.stage("prepare"):
        accelerator = open_accelerator(recipe.base, recipe.training.report_to)
        clock.device = accelerator.device
        if not accelerator.is_main_process:
            console = Console(quiet=True)
        print_ledger(console, prepared.ledger)
    with clock.stage("plan"):
        planned = plan_if_possible(prepared, accelerator, console)
    with output_folder(recipe, output_dir, accelerator) as folder:
        try:
            model, outcome = train_and_score(prepared, accelerator, clock, console, frozen_probe)
        except Unfinished as unfinished:
            raise keep_unfinished(unfinished, prepared, folder, accelerator) from unfinished
        if not accelerator.is_main_process:
            return Run(folder, None)
        with interruptible(lambda _: "") as signals, clock.stage("save"):
            results = outcome.metrics(), outcome.unquantized, outcome.decision
            unchecked, adapter = save_adapter(model, *results, prepared, folder, accelerator)
        if signals.code:
            sys.exit(signals.code)
        accelerator.free_memory()  # makes room: the check loads the base again
        del model
        release_memory()
        with clock.stage("check"):
            saved, difference = check_saved(unchecked, recipe, prepared.base, adapter, accelerator)
        with interruptible(lambda _: ""):  # a signal does not stop the quick rest
            serve = commands(OpenedAdapter(saved, adapter, recipe, prepared.base), folder)
            record = make_record(
                prepared, planned, outcome, adapter, saved, difference, serve, clock
            )
            write_json(folder / "by_example.json", to_json(outcome.after.parts))
            write_json(folder / RUN_FILE, record.to_json())
            write_receipt(folder / "receipt.html", record)
    print_scores(console, record)
    return Run(folder, record)


def keep_unfinished(
    unfinished: Unfinished, prepared: Prepared, folder: Path, accelerator: Accelerator
) -> Interrupted:
    """Saves the best validated weights of an interrupted run; returns the error to raise.

    The weights are not loaded again for a check.
    """
    result = unfinished.result
    step, done = result.best_step, len(result.history)
    if accelerator.is_main_process:
        validated = next(v.metrics for v in result.validations if v.step == step)
        before = {"test split, before": unfinished.before.metrics}
        metrics = {**before, f"{VALIDATED} {step}": validated}
        kept = unfinished.model, metrics, unfinished.unquantized, result.decision
        unchecked, _ = save_adapter(*kept, prepared, folder, accelerator)
        unchecked.rename(folder / UNFINISHED)
    accelerator.wait_for_everyone()  # a launcher stops all processes when one exits
    num_steps = number_of_steps(prepared.recipe.training, prepared.encoded.train.num_units)
    return Interrupted(
        f"stopped at step {done:,} of {num_steps:,}; the best validated weights (step {step:,}, "
        f"{result.metric} {result.best_value:.4f}) are in `{folder / UNFINISHED}`; they were "
        "neither scored on the test split nor loaded again for a check",
        f"check them with `peftkit verify {folder / UNFINISHED}`",
        result.exit_code,
    )


def save_adapter(
    model: nn.Module,
    metrics: dict[str, dict[str, float]],
    unquantized: list[str],
    decision: Decision,
    prepared: Prepared,
    folder: Path,
    accelerator: Accelerator,
) -> tuple[Path, Record]:
    """Writes the adapter into a temporary folder; returns the folder and the adapter's record.

    Args:
        metrics: name of a model or baseline, such as `after` -> metric name -> its test score.
        unquantized: names of the modules that a quantized base leaves unquantized.
        decision: thresholds or other numbers that the task chose on the validation split.
    """
    recipe, base = prepared.recipe, prepared.base
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    embeddings: Any = model.get_input_embeddings()  # type: ignore[operator]
    vocabulary = min(len(base.tokenizer), len(embeddings.weight))
    with accelerator.autocast():
        probes = take_probes(model, vocabulary, base.added_ids, tolerance(recipe.base))
    unchecked, digests = write_weights(model, recipe.method, base, prepared.encoded.head, folder)
    adapter = Record(
        recipe=published_recipe(recipe),
        base=recorded_base(base, str(dtype).removeprefix("torch."), unquantized),
        tokenizer_sha256=tokenizer_sha256(base.tokenizer),
        chat_template_sha256=chat_template_sha256(base.tokenizer),
        head=prepared.encoded.head,
        weights=digests,
        tensors=tensor_digests(unchecked),
        peft_config=read_config(unchecked),
        configs=config_digests(unchecked),
        metrics=metrics,
        probes=probes,
        versions=versions(),
        decision=decision,
    )
    adapter.write(unchecked)
    write_card(unchecked, folder.name, adapter, recipe.task)
    return unchecked, adapter
