"""Makes a run's record, the content of run.json, from the results of the stages."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from peftkit.adapters.record import Record
from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.adapters.saving import adapter_bytes
from peftkit.bases.devices import device_name
from peftkit.evaluation.lead import headline_metric, lead
from peftkit.evaluation.writing import written_scores
from peftkit.reports.plan_record import Plan, Unplanned
from peftkit.reports.run_record import (
    ProbeCheck,
    RecordedProbe,
    RecordedStart,
    RunRecord,
    SelfCheck,
    TestRecord,
)
from peftkit.stages.outcome import Clock, Outcome
from peftkit.stages.preparing import Prepared
from peftkit.tasks.input_options import flag
from peftkit.tasks.task import Task


def make_record(
    prepared: Prepared,
    planned: Plan | Unplanned,
    outcome: Outcome,
    adapter: Record,
    saved: Path,
    probe_difference: float,
    serve: dict[str, str],
    clock: Clock,
) -> RunRecord:
    """The record of a finished run.

    Args:
        saved: folder of the adapter.
        probe_difference: distance between the logits of the saved adapter and of the trained
            model on the adapter's probes.
        serve: program -> the command that exports the adapter to it.
    """
    result, folder = outcome.result, saved.parent
    padding = max(0.0, 1 - result.num_tokens / max(1, result.num_padded_tokens))
    start = prepared.start
    assert adapter.base is not None  # only other tools' adapters have no base
    return RunRecord(
        status="finished",
        name=folder.name,
        created=datetime.now().astimezone().isoformat(sep=" ", timespec="minutes"),
        folder=str(folder),
        recipe=RecordedRecipe.of(prepared.recipe),
        base=adapter.base,
        device=device_name(clock.device),
        trainable_parameters=outcome.trainable_parameters,
        total_parameters=prepared.total_parameters,
        base_memory_mb=outcome.base_memory.total_mb,
        adapter_bytes=adapter_bytes(saved),
        command=prepared.recipe.task.command,
        asked=_asked(prepared.recipe.task),
        serve=serve,
        start=RecordedStart(start.name, start.weights()) if start else None,
        test=test_record(prepared, outcome),
        training=result,
        seconds=clock.seconds,
        peak_memory_mb=clock.peak_mb,
        peaks_mb=clock.peaks_mb,
        plan=planned,
        self_check=SelfCheck(result.layout, outcome.notes),
        probes=ProbeCheck(len(adapter.probes), probe_difference),
        ledger=prepared.ledger.with_padding(padding),
        data_sha256=prepared.encoded.sha256,
        versions=adapter.versions,
    )


def test_record(prepared: Prepared, outcome: Outcome) -> TestRecord:
    """The part of the record about the test split: scores, answers and the frozen probe."""
    after, probe = outcome.after, outcome.probe
    metric = headline_metric(outcome.result.metric, after.metrics)
    recorded = None
    if probe is not None:
        strength = None if probe.fitted is None else probe.fitted.regularization
        recorded = RecordedProbe(probe.left_out, probe.rows, probe.num_train, strength)
    encoded, task = prepared.encoded, prepared.recipe.task
    sentences = lead(metric, outcome.before, after, outcome.baselines, probe, encoded, task)
    return TestRecord(
        lead=tuple(sentences),
        before=outcome.before.metrics,
        baseline=outcome.baselines,
        after=after.metrics,
        intervals=after.intervals,
        tables=after.tables,
        matrices=after.matrices,
        mistakes=after.mistakes,
        samples=outcome.samples,
        of_samples=written_scores(outcome.after, task),
        probe=recorded,
        charts=after.charts,
    )


def _asked(task: Task) -> dict[str, str] | None:
    """Option of `peftkit predict` -> the task's name for its value; None if it is one text."""
    options = {flag(name): task.input_options[name].role for name in task.asked}
    return None if list(options) == [flag("text")] else options
