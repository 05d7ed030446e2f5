"""`peftkit rewind`: scores an adapter at smaller strengths, and writes the one that keeps what was
learned and forgets least.

The scale is chosen on validation data; the test split is scored afterwards, at that scale and at 1.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.loading import OTHER_SEED, OpenedAdapter, load_proven, open_adapter
from peftkit.adapters.record import Record, versions
from peftkit.adapters.saving import PARTIAL, check_saved
from peftkit.atomic import place, placed, refuse_taken, write_json
from peftkit.bases.devices import (
    device_name,
    give_back_memory,
    open_accelerator,
    quick_collections,
)
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.loading import load_weights
from peftkit.bases.vocabulary import check_ids
from peftkit.data.encoded import Encoded, Examples
from peftkit.data.reading import read_source
from peftkit.data.rows import check_columns
from peftkit.data.splits import Splits, clean_rows, load_splits
from peftkit.deploy.rewinding.folder import write_rewound
from peftkit.deploy.rewinding.scales import DEFAULT, checked_scales, choose, parse_scales
from peftkit.errors import AdapterError, DataError, MethodError, MissingPackageError, RecipeError
from peftkit.evaluation.retention import DRAWN_FROM, Retention, load_texts, text_loss
from peftkit.evaluation.scoring import evaluate
from peftkit.methods.rewinding import Rewinding
from peftkit.metrics.metric import Metric
from peftkit.reports import plots
from peftkit.reports.rewind_report import (
    BothTests,
    Measured,
    MeasuredBase,
    RewindReport,
    TestScores,
)
from peftkit.tasks.task import Score
from peftkit.training.forward.reading import Reader

REPORT, CURVE = "rewind.json", "rewind.svg"
LABELLED_ROWS = 1000
"""Most rows from elsewhere, unless a number was given; a language model reads fewer texts."""
TEXT_LOSS = Metric("loss", higher_is_better=False)
OTHER_DATA = 1e-2
"""Largest relative difference of a test loss to that of the training, on the same data."""


@dataclass(frozen=True)
class Material:
    """What an adapter is scored on."""

    encoded: Encoded
    metric: Metric
    """Of the target task."""
    retention: Retention | None
    texts: tuple[str, ...] = ()
    """For a language model."""
    rows: Examples | None = None
    """Labelled rows from elsewhere, for any other task."""

    @property
    def retention_metric(self) -> Metric | None:
        """`loss` of texts, or the task's own metric; None where retention is not measured."""
        if self.retention is None:
            return None
        return TEXT_LOSS if self.texts else self.metric

    @property
    def retention_settings(self) -> dict[str, str | int] | None:
        """The settings of retention that count here; None where it is not measured."""
        if self.retention is None:
            return None
        read_by_task = {"text", "max_rows", "max_length"} if self.rows else set()
        return self.retention.model_dump(exclude=read_by_task)


@dataclass(frozen=True)
class Rewound:
    """What a rewind leaves behind."""

    folder: Path
    report: RewindReport
    """The content of rewind.json."""


@quick_collections()
def rewind(
    path: str,
    scales: Sequence[float] = (),
    retention: Retention | None = None,
    chosen: float | None = None,
    output: str = "",
    base: str = "",
    trust_remote_code: bool = False,
    tell: Callable[[str], None] = lambda _: None,
    allowed: float = 0.0,
    settings: Mapping[str, object] | None = None,
) -> Rewound:
    """Scores a run's adapter at several scales, and writes the best one as an adapter.

    Args:
        path: a run folder.
        scales: from 0, the base, to 1, as it was trained; 0.2 to 1 in steps of 0.1 if not given.
        retention: text on which a language model is not to get worse, long reviews if not given;
            for other tasks a file with the task's columns, none if not given.
        chosen: the scale to write, instead of the one that validation data tells.
        output: a folder that does not exist yet; `<path>-rewound` if not given.
        base: where the base is, if not where the recipe says.
        trust_remote_code: as for `open_adapter`.
        tell: called with what is being done.
        allowed: by how much the validation score may be worse than as it was trained.
        settings: as for `open_adapter`.

    Raises:
        MethodError: there is nothing between the base and what the method trains.
        RecipeError: scales are wrong, or a tolerance is given where retention is not measured.
        DataError: the data of the training, or of retention, cannot be read.
        AdapterError: a file was changed, the base is another one, or the probes differ.
        OutputError: the folder holds something, or cannot be written.
    """
    wanted = checked_scales(scales or parse_scales(DEFAULT))
    if chosen is not None:
        wanted = checked_scales([*wanted, chosen])
    final = place(output or default_output(path))
    refuse_taken(final)
    begun = time.monotonic()
    found = open_adapter(path, base, trust_remote_code, settings)
    if reason := found.recipe.method.supports_rewinding():
        raise MethodError(f"this adapter cannot be rewound: {reason}")
    material = gather(found, retention)
    if allowed and material.retention is None:
        raise RecipeError(
            f"a tolerance of {allowed:g} is what retention may cost, and none is measured here",
            "give rows or text with `--retain`, or leave `--tolerance` out",
        )
    found.check_base()
    accelerator = open_accelerator(found.base.spec)
    with placed(final) as folder:
        folder.mkdir()
        report, record = _measure(
            found, material, wanted, chosen, allowed, folder, accelerator, tell
        )
        give_back_memory()
        if record is not None:
            tell("opening what was written")
            (folder / "recipe.json").write_text(_recipe_text(found), encoding="utf-8")
            check_saved(folder / PARTIAL, found.recipe, found.base, record, accelerator)
        report = replace(report, seconds=time.monotonic() - begun)
        write_json(folder / REPORT, report.to_json())
        (folder / CURVE).write_text(plots.rewind_curve(report), encoding="utf-8")
    return Rewound(final, report)


def default_output(path: str) -> str:
    """`<run>-rewound`, beside the run, or here if it is of the Hub."""
    folder = Path(path).expanduser().resolve()  # `.` has no name
    if folder.name == "adapter" and (folder.parent / "recipe.json").is_file():
        folder = folder.parent
    name = f"{folder.name.partition('@')[0]}-rewound"
    return str(folder.with_name(name) if folder.exists() else Path(name))


def gather(found: OpenedAdapter, retention: Retention | None) -> Material:
    """The splits of the training, made anew, and what retention is measured on; no weights.

    Raises:
        DataError: one of them cannot be read.
        AdapterError: the data has other classes than the adapter.
    """
    task, head = found.recipe.task, found.record.head
    if not found.record.base:
        raise AdapterError(
            "another tool saved the adapter, and it names no data to score it on",
            "give a run folder of peftkit",
        )
    try:
        splits, _ = load_splits(task, found.recipe.split_seed)
    except DataError as error:
        raise DataError(
            f"the data of the training is needed, and cannot be read: {error.message}",
            "give the run folder, whose recipe.json says where the data is, and run the command "
            "in the folder in which the run was started",
        ) from error
    encoded = task.encode(splits, found.base.tokenizer)
    if encoded.head.labels != head.labels:
        raise AdapterError(
            "the data that the recipe names has other classes than the adapter",
            "the file was changed; put that of the training back",
        )
    metric = task.metric(found.recipe.metric)
    if head.task_type != "CAUSAL_LM":
        if retention is None or "path" not in retention.model_fields_set:
            return Material(encoded, metric, None)
        return Material(encoded, metric, retention, rows=_labelled(found, splits, retention))
    retention = retention or Retention()
    try:
        texts = load_texts(retention)
    except MissingPackageError as error:
        raise MissingPackageError(
            f"{error.message}, on which retention is measured",
            f"{error.hint}, or give a file of general text with `--retain PATH`",
        ) from error
    tokenizer = found.base.tokenizer
    check_ids(found.base, (tokenizer(text, verbose=False)["input_ids"] for text in texts))
    return Material(encoded, metric, retention, tuple(texts))


def _labelled(found: OpenedAdapter, splits: Splits, retention: Retention) -> Examples:
    """Rows of another file with the task's columns, without those that were trained on."""
    count = retention.max_rows if "max_rows" in retention.model_fields_set else LABELLED_ROWS
    task = found.recipe.task.elsewhere(retention.path, retention.subset, count)
    tables = read_source(task.source)
    table = next(tables[name] for name in DRAWN_FROM if name in tables)
    try:
        check_columns(table, task.columns)
    except DataError as error:
        raise DataError(error.message, "name its columns as those of the training") from error
    rows, _ = clean_rows(task, table, found.recipe.split_seed)
    trained = set(map(task.key, splits.train))
    unseen = tuple(row for row in rows if task.key(row) not in trained)
    if not unseen:
        raise DataError(
            f"`{table.name}`: all its rows are in the training split",
            "give rows that the adapter has not seen",
        )
    others = replace(splits, test=unseen)
    task.check_splits(others)
    return task.encode(others, found.base.tokenizer).test


def _measure(
    found: OpenedAdapter,
    material: Material,
    scales: Sequence[float],
    wanted: float | None,
    allowed: float,
    folder: Path,
    accelerator: Accelerator,
    tell: Callable[[str], None],
) -> tuple[RewindReport, Record | None]:
    """The report; and the record of what was written, None where the adapter stays as it is."""
    tell("loading the adapter on its base")
    model, rewinding = _loaded(found, accelerator)

    def score(examples: Examples) -> Score:
        return _score(found, material, model, examples, accelerator)

    curve: list[Measured] = []
    for scale in reversed(scales):  # what all others are compared with comes first
        rewinding.to(scale)
        validation = score(material.encoded.validation).metrics[material.metric.name]
        curve.append(Measured(scale, validation, _retained(found, material, model, accelerator)))
        tell(_told(curve[-1], material))
    curve.reverse()
    chosen, why = choose(curve, material.metric, material.retention_metric, allowed)
    if wanted is not None:
        chosen, why = wanted, "it was asked for"
    of_base = None
    if material.texts:
        rewinding.to(0.0)
        of_base = _retained(found, material, model, accelerator)
    tell("scoring the test split")
    rewinding.to(1.0)
    trained = score(material.encoded.test)
    rewinding.to(chosen)
    rewound = trained if chosen == 1 else score(material.encoded.test)
    record = None
    if chosen != 1:
        with accelerator.autocast():
            record = write_rewound(model, found, chosen, rewound.metrics, folder)
    report = RewindReport(
        name=found.recipe.name or "run",
        adapter=found.record.weights,
        method=found.recipe.method.kind(),
        metric=material.metric,
        retention_metric=material.retention_metric,
        retention_data=material.retention_settings,
        retention_rows=len(material.texts) or len(material.rows or ()),
        scales=tuple(curve),
        base=MeasuredBase(of_base),
        chosen=chosen,
        why=why,
        written=record is not None,
        test=BothTests(*(TestScores(s.metrics, s.intervals) for s in (trained, rewound))),
        notes=tuple(_notes(found, material, trained)),
        device=device_name(accelerator.device),
        versions=versions(),
        seconds=0.0,
    )
    return report, record


def _told(point: Measured, material: Material) -> str:
    """`scale 0.5: validation accuracy 0.9000, retention accuracy 0.8000`."""
    score = f"scale {point.scale:g}: validation {material.metric.name} {point.validation:.4f}"
    if point.retention is None or material.retention_metric is None:
        return score
    return f"{score}, retention {material.retention_metric.name} {point.retention:.4f}"


def _loaded(found: OpenedAdapter, accelerator: Accelerator) -> tuple[nn.Module, Rewinding]:
    """The adapter on its base, proven by its probes, and what moves it."""
    recipe, head, device = found.recipe, found.record.head, accelerator.device
    model, _ = load_proven(found.folder, recipe, found.base, found.record, accelerator)

    def load_base() -> LoadedModel:
        set_seed(OTHER_SEED)
        return load_weights(found.base, head, found.dtype, device, dropout=None)

    starts = recipe.method.starts(model, load_base)
    return model, Rewinding(model, starts, found.base.added_ids)


def _score(
    found: OpenedAdapter,
    material: Material,
    model: nn.Module,
    examples: Examples,
    accelerator: Accelerator,
) -> Score:
    recipe, encoded = found.recipe, material.encoded
    tokens, pad = recipe.training.micro_batch_tokens, encoded.pad_token_id
    reader = Reader(model, recipe.task.reads)
    return evaluate(reader, examples, encoded.head, recipe.task, pad, tokens, accelerator)


def _retained(
    found: OpenedAdapter, material: Material, model: nn.Module, accelerator: Accelerator
) -> float | None:
    if material.retention is None:
        return None
    if material.rows is not None:
        score = _score(found, material, model, material.rows, accelerator)
        return score.metrics[material.metric.name]
    length = material.retention.max_length
    return text_loss(model, found.base.tokenizer, material.texts, length, accelerator)


def _notes(found: OpenedAdapter, material: Material, trained: Score) -> list[str]:
    notes = []
    if material.retention is None:
        notes.append("retention was not measured: `--retain PATH` names rows of another domain")
    before, now = found.record.metrics["after"]["loss"], trained.metrics["loss"]
    if abs(now - before) > OTHER_DATA * max(before, 0.1):
        notes.append(
            f"at scale 1 the test loss is {now:.4f}, and was {before:.4f} when it was trained: the "
            "data is not the same"
        )
    return notes


def _recipe_text(found: OpenedAdapter) -> str:
    """The recipe of the training, which knows where base and data are."""
    template = found.record.recipe["base"]["chat_template"]  # that in use lies in the adapter
    return found.recipe.with_(base=found.recipe.base.with_(chat_template=template)).to_json()
