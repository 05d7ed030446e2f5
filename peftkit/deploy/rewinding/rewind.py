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
from peftkit.data.encoded import Examples
from peftkit.deploy.rewinding.folder import write_rewound
from peftkit.deploy.rewinding.material import Material, check_tolerance, gather
from peftkit.deploy.rewinding.reporting import make_report
from peftkit.deploy.rewinding.scales import DEFAULT, checked_scales, choose, parse_scales
from peftkit.errors import MethodError
from peftkit.evaluation.retention import Retention, text_loss
from peftkit.evaluation.scoring import evaluate
from peftkit.methods.rewinding import Rewinding
from peftkit.reports import plots
from peftkit.reports.rewind_report import (
    BothTests,
    Measured,
    RewindReport,
    TestScores,
)
from peftkit.tasks.task import Score
from peftkit.training.forward.reading import Reader

REPORT, CURVE = "rewind.json", "rewind.svg"


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
    wanted = wanted if chosen is None else checked_scales([*wanted, chosen])
    final = place(output or default_output(path))
    refuse_taken(final)
    begun = time.monotonic()
    adapter = _opened(path, base, trust_remote_code, settings)
    material = gather(adapter, retention)
    check_tolerance(allowed, material)
    adapter.check_base()
    with placed(final) as folder:
        folder.mkdir()
        report = _rewound(adapter, material, wanted, chosen, allowed, folder, tell)
        report = replace(report, seconds=time.monotonic() - begun)
        write_json(folder / REPORT, report.to_json())
        (folder / CURVE).write_text(plots.rewind_curve(report), encoding="utf-8")
    return Rewound(final, report)


def _opened(
    path: str, base: str, trust_remote_code: bool, settings: Mapping[str, object] | None
) -> OpenedAdapter:
    """Raises MethodError if there is nothing between the base and what the method trains."""
    adapter = open_adapter(path, base, trust_remote_code, settings)
    if reason := adapter.recipe.method.supports_rewinding():
        raise MethodError(f"this adapter cannot be rewound: {reason}")
    return adapter


def default_output(path: str) -> str:
    """`<run>-rewound`, beside the run, or here if it is of the Hub."""
    folder = Path(path).expanduser().resolve()  # `.` has no name
    if folder.name == "adapter" and (folder.parent / "recipe.json").is_file():
        folder = folder.parent
    name = f"{folder.name.partition('@')[0]}-rewound"
    return str(folder.with_name(name) if folder.exists() else Path(name))


def _rewound(
    adapter: OpenedAdapter,
    material: Material,
    scales: Sequence[float],
    wanted: float | None,
    allowed: float,
    folder: Path,
    tell: Callable[[str], None],
) -> RewindReport:
    """Scores the adapter at all scales, writes it at the chosen one, and checks what was written;
    nothing is written where it stays as it is.
    """
    accelerator = open_accelerator(adapter.base.spec)
    tell("loading the adapter on its base")
    model, rewinding = _loaded(adapter, accelerator)
    curve, of_base = _curve(adapter, material, scales, model, rewinding, accelerator, tell)
    chosen, why = choose(curve, material.metric, material.retention_metric, allowed)
    if wanted is not None:
        chosen, why = wanted, "it was asked for"
    tell("scoring the test split")
    test = material.encoded.test
    rewinding.to(1.0)
    trained = _score(adapter, material, model, test, accelerator)
    rewinding.to(chosen)
    rewound = trained
    if chosen != 1:
        rewound = _score(adapter, material, model, test, accelerator)
        with accelerator.autocast():
            record = write_rewound(model, adapter, chosen, rewound.metrics, folder)
        del model, rewinding
        give_back_memory()
        tell("opening what was written")
        (folder / "recipe.json").write_text(_recipe_text(adapter), encoding="utf-8")
        check_saved(folder / PARTIAL, adapter.recipe, adapter.base, record, accelerator)
    both = BothTests(*(TestScores(score.metrics, score.intervals) for score in (trained, rewound)))
    device = device_name(accelerator.device)
    return make_report(adapter, material, curve, of_base, (chosen, why), both, device)


def _curve(
    adapter: OpenedAdapter,
    material: Material,
    scales: Sequence[float],
    model: nn.Module,
    rewinding: Rewinding,
    accelerator: Accelerator,
    tell: Callable[[str], None],
) -> tuple[list[Measured], float | None]:
    """The adapter at each scale, ascending; and the retention of the base, if it is of texts."""
    validation = material.encoded.validation
    curve: list[Measured] = []
    for scale in reversed(scales):  # what all others are compared with comes first
        rewinding.to(scale)
        score = _score(adapter, material, model, validation, accelerator)
        retention = _retained(adapter, material, model, accelerator)
        curve.append(Measured(scale, score.metrics[material.metric.name], retention))
        tell(_in_words(curve[-1], material))
    curve.reverse()
    if not material.texts:
        return curve, None
    rewinding.to(0.0)
    return curve, _retained(adapter, material, model, accelerator)


def _in_words(point: Measured, material: Material) -> str:
    """`scale 0.5: validation accuracy 0.9000, retention accuracy 0.8000`."""
    score = f"scale {point.scale:g}: validation {material.metric.name} {point.validation:.4f}"
    if point.retention is None or material.retention_metric is None:
        return score
    return f"{score}, retention {material.retention_metric.name} {point.retention:.4f}"


def _loaded(adapter: OpenedAdapter, accelerator: Accelerator) -> tuple[nn.Module, Rewinding]:
    """The adapter on its base, proven by its probes, and what moves it."""
    recipe, head, device = adapter.recipe, adapter.record.head, accelerator.device
    model, _ = load_proven(adapter.folder, recipe, adapter.base, adapter.record, accelerator)

    def load_base() -> LoadedModel:
        set_seed(OTHER_SEED)
        return load_weights(adapter.base, head, adapter.dtype, device, dropout=None)

    starts = recipe.method.starts(model, load_base)
    return model, Rewinding(model, starts, adapter.base.added_ids)


def _score(
    adapter: OpenedAdapter,
    material: Material,
    model: nn.Module,
    examples: Examples,
    accelerator: Accelerator,
) -> Score:
    recipe, encoded = adapter.recipe, material.encoded
    tokens, pad = recipe.training.micro_batch_tokens, encoded.pad_token_id
    reader = Reader(model, recipe.task.reads)
    return evaluate(reader, examples, encoded.head, recipe.task, pad, tokens, accelerator)


def _retained(
    adapter: OpenedAdapter, material: Material, model: nn.Module, accelerator: Accelerator
) -> float | None:
    if material.retention is None:
        return None
    if material.rows is not None:
        score = _score(adapter, material, model, material.rows, accelerator)
        return score.metrics[material.metric.name]
    length = material.retention.max_length
    return text_loss(model, adapter.base.tokenizer, material.texts, length, accelerator)


def _recipe_text(adapter: OpenedAdapter) -> str:
    """The recipe of the training, which knows where base and data are."""
    template = adapter.record.recipe["base"]["chat_template"]  # that in use lies in the adapter
    return adapter.recipe.with_(base=adapter.recipe.base.with_(chat_template=template)).to_json()
