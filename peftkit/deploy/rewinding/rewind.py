"""`peftkit rewind`: scores an adapter at several scales, and writes it at the scale that keeps its
score and forgets least.

The scale is chosen on validation data; then the test split is scored at the chosen scale and at 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from peftkit.adapters.loading import OpenedAdapter, open_adapter
from peftkit.adapters.record import Record, versions
from peftkit.adapters.saving import PARTIAL, check_saved
from peftkit.atomic import atomic_path, output_path, refuse_taken, write_json
from peftkit.bases.devices import device_name, frozen_gc, open_accelerator, release_memory
from peftkit.deploy.rewinding.folder import write_rewound
from peftkit.deploy.rewinding.material import Material, gather
from peftkit.deploy.rewinding.moved_model import MovedModel, load_moved_model
from peftkit.deploy.rewinding.scales import ScaleChoice, scale_choice
from peftkit.errors import MethodError, RecipeError
from peftkit.evaluation.retention import Retention
from peftkit.reports import plots
from peftkit.reports.rewind_report import (
    BothTests,
    Measured,
    MeasuredBase,
    RewindReport,
    TestScores,
)
from peftkit.tasks.score import Score

REPORT, CURVE = "rewind.json", "rewind.svg"
OTHER_DATA = 1e-2
"""Largest allowed difference between the test loss at scale 1 and the recorded test loss, relative
to the recorded loss. A larger difference means that the data has changed."""


@dataclass(frozen=True)
class Rewound:
    """The result of a rewind: the output folder and the report."""

    folder: Path
    report: RewindReport
    """The content of rewind.json."""


@frozen_gc()
def rewind(
    path: str,
    scales: Sequence[float] = (),
    retention: Retention | None = None,
    chosen: float | None = None,
    output: str = "",
    base: str = "",
    trust_remote_code: bool = False,
    on_progress: Callable[[str], None] = lambda _: None,
    allowed: float = 0.0,
    settings: Mapping[str, object] | None = None,
) -> Rewound:
    """Scores a run's adapter at several scales, and writes it at the best scale.

    Args:
        path: a run folder.
        scales: numbers from 0 (the base) to 1 (as trained); if empty, 0.2 to 1 in steps of 0.1.
        retention: data on which the model should not get worse. For a language model: texts, by
            default long reviews. For other tasks: rows with the task's columns, by default none.
        chosen: the scale to write, instead of the one chosen on validation data.
        output: a folder that does not exist yet; `<path>-rewound` if not given.
        base: path of the base; empty for the path in the recipe.
        trust_remote_code: see `open_adapter`.
        on_progress: called with each step as it begins.
        allowed: how much the validation score may be worse than at scale 1.
        settings: see `open_adapter`.

    Raises:
        MethodError: the method's parameters cannot be scaled down to the base.
        RecipeError: scales are wrong, or a tolerance is given but retention is not measured.
        DataError: the training's data or the retention data cannot be read.
        AdapterError: a file or the base has changed, or the answers differ from the probes.
        OutputError: the output folder is not empty, or cannot be written.
    """
    choice = scale_choice(scales, chosen, allowed)
    final = output_path(output or default_output(path))
    refuse_taken(final)
    begun = time.monotonic()
    adapter = open_adapter(path, base, trust_remote_code, settings)
    material = _material(adapter, retention, allowed)
    with atomic_path(final) as folder:
        folder.mkdir()
        report = _write(adapter, material, choice, folder, on_progress)
        report = replace(report, seconds=time.monotonic() - begun)
        write_json(folder / REPORT, report.to_json())
        (folder / CURVE).write_text(plots.rewind_curve(report), encoding="utf-8")
    return Rewound(final, report)


def default_output(path: str) -> str:
    """The path `<run>-rewound`: beside a run folder, or in the current folder for a Hub adapter."""
    folder = Path(path).expanduser().resolve()  # resolved, since the path `.` has no name
    if folder.name == "adapter" and (folder.parent / "recipe.json").is_file():
        folder = folder.parent
    name = f"{folder.name.partition('@')[0]}-rewound"
    return str(folder.with_name(name) if folder.exists() else Path(name))


def _material(adapter: OpenedAdapter, retention: Retention | None, allowed: float) -> Material:
    """Checks that an adapter can be rewound; reads the data on which it is scored.

    Raises:
        MethodError: the method's parameters cannot be scaled down to the base.
        RecipeError: a tolerance is given but retention is not measured.
        DataError: the data cannot be read.
        AdapterError: the base or the data has changed.
    """
    if reason := adapter.recipe.method.refuses_rewinding():
        raise MethodError(f"this adapter cannot be rewound: {reason}")
    material = gather(adapter, retention)
    if allowed and material.retention is None:
        raise RecipeError(
            f"`--tolerance {allowed:g}` needs a measured retention, but none is measured",
            "give rows or text with `--retain`, or leave `--tolerance` out",
        )
    adapter.check_base()
    return material


def _write(
    adapter: OpenedAdapter,
    material: Material,
    choice: ScaleChoice,
    folder: Path,
    on_progress: Callable[[str], None],
) -> RewindReport:
    """Scores the adapter, writes it at the chosen scale, checks the result and returns the report.
    Keeps only one model in memory at a time.
    """
    accelerator = open_accelerator(adapter.base.spec)
    on_progress("loading the adapter on its base")
    moved = load_moved_model(adapter, material, accelerator)
    report, record = _measure(moved, choice, folder, on_progress)
    del moved
    release_memory()
    if record is not None:
        on_progress("checking the written adapter")
        (folder / "recipe.json").write_text(_recipe_text(adapter), encoding="utf-8")
        check_saved(folder / PARTIAL, adapter.recipe, adapter.base, record, accelerator)
    return report


def _curve(
    moved: MovedModel, scales: Sequence[float], on_progress: Callable[[str], None]
) -> list[Measured]:
    """Scores the model at every scale; returns the scores in ascending order of the scales."""
    material = moved.material
    curve: list[Measured] = []
    for scale in reversed(scales):  # scale 1 first: it is what other scales are compared with
        moved.rewinding.to(scale)
        score = moved.score(material.encoded.validation, material.validation_prompts)
        validation = score.metrics[material.metric.name]
        curve.append(Measured(scale, validation, moved.retention()))
        on_progress(_progress(curve[-1], material))
    return curve[::-1]


def _measure(
    moved: MovedModel, choice: ScaleChoice, folder: Path, on_progress: Callable[[str], None]
) -> tuple[RewindReport, Record | None]:
    """Scores the adapter and writes it at the chosen scale; returns the report and the new record.
    If scale 1 is chosen, writes nothing and returns no record.
    """
    adapter, material, accelerator = moved.adapter, moved.material, moved.accelerator
    encoded, curve = material.encoded, _curve(moved, choice.scales, on_progress)
    chosen, why = choice.choose(curve, material.metric, material.retention_metric)
    base_retention = None
    if material.texts:
        moved.rewinding.to(0.0)
        base_retention = moved.retention()
    on_progress("scoring the test split")
    moved.rewinding.to(1.0)
    trained = moved.score(encoded.test, encoded.prompts)
    moved.rewinding.to(chosen)
    rewound = trained if chosen == 1 else moved.score(encoded.test, encoded.prompts)
    record = None
    if chosen != 1:
        with accelerator.autocast():
            record = write_rewound(moved.model, adapter, chosen, rewound.metrics, folder)
    report = RewindReport(
        name=adapter.recipe.name or "run",
        adapter=adapter.record.weights,
        method=adapter.recipe.method.kind(),
        metric=material.metric,
        retention_metric=material.retention_metric,
        retention_data=material.retention_settings,
        retention_rows=len(material.texts) or len(material.rows or ()),
        scales=tuple(curve),
        base=MeasuredBase(base_retention),
        chosen=chosen,
        why=why,
        written=record is not None,
        test=BothTests(*(TestScores(s.metrics, s.intervals) for s in (trained, rewound))),
        notes=tuple(_notes(adapter, material, trained)),
        device=device_name(accelerator.device),
        versions=versions(),
        seconds=0.0,
    )
    return report, record


def _progress(point: Measured, material: Material) -> str:
    """A line such as `scale 0.5: validation accuracy 0.9000, retention accuracy 0.8000`."""
    score = f"scale {point.scale:g}: validation {material.metric.name} {point.validation:.4f}"
    if point.retention is None or material.retention_metric is None:
        return score
    return f"{score}, retention {material.retention_metric.name} {point.retention:.4f}"


def _notes(adapter: OpenedAdapter, material: Material, trained: Score) -> list[str]:
    notes = []
    if material.retention is None:
        notes.append("retention was not measured: give rows of another domain with `--retain PATH`")
    before, now = adapter.record.metrics["after"]["loss"], trained.metrics["loss"]
    if abs(now - before) > OTHER_DATA * max(before, 0.1):
        notes.append(
            f"at scale 1 the test loss is {now:.4f}, but it was {before:.4f} after training: the "
            "data is not the same"
        )
    return notes


def _recipe_text(adapter: OpenedAdapter) -> str:
    """JSON of the training's recipe, with the chat template's path as recorded in training."""
    template = adapter.record.recipe.chat_template  # the opened adapter uses a copy in its folder
    return adapter.recipe.with_(base=adapter.recipe.base.with_(chat_template=template)).to_json()
