"""`peftkit verify`: whether an adapter is what it says, first from its bytes, then on its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from peftkit.adapters.folders import HUB_ID
from peftkit.adapters.hub import on_this_machine
from peftkit.adapters.inspection.findings import Findings
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.own_classes import how_to_trust, kinds_from_outside
from peftkit.adapters.saved_recipe import quick_recipe
from peftkit.bases.base import Base
from peftkit.bases.files import fetch, find_local
from peftkit.errors import PeftkitError, UnreachableError, first_line
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.wording import plural

if TYPE_CHECKING:
    from accelerate import Accelerator

    from peftkit.adapters.loading import OpenedAdapter
    from peftkit.adapters.record import Record
    from peftkit.bases.opened import OpenedBase
    from peftkit.recipe import Recipe
    from peftkit.tasks.task import Task

NO_CHANGE = 1e-7
"""Of the logits' scale: below it an adapter does nothing."""


def verify(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    before_loading: Callable[[], None] = lambda: None,
    settings: Mapping[str, object] | None = None,
    stage: Callable[[str], None] = lambda _: None,
) -> Findings:
    """All checks of an adapter, as far as they can be made.

    Args:
        path: a run folder or an adapter folder.
        base: where the base is, if not where the adapter says.
        trust_remote_code: whether code that lies beside the base may run.
        before_loading: called when the first stage has passed, before torch is imported.
        settings: fields that adapter_config.json lacks, and their values.
        stage: called with what is done next.

    Raises:
        AdapterError: it is no adapter.
        RecipeError: the settings are none of the adapter's type, or not missing.
    """
    found = inspect(path := on_this_machine(path), settings)
    if not found.passed:
        if found.findings.is_adapter:
            told = "nothing is loaded while something in the folder is wrong"
            found.findings.note("base", "not opened", told)
        return found.findings
    if kinds := kinds_from_outside(found.record):
        _tell_kinds_from_outside(found.findings, kinds)
        return found.findings
    try:
        reach_base(found, path, base)
    except UnreachableError as error:
        _tell_unreachable(found.findings, error)
        return found.findings
    before_loading()
    try:
        on_base = _on_its_base if found.record is not None else _on_a_base
        on_base(found, path, base, trust_remote_code, stage)
    except UnreachableError as error:
        _tell_unreachable(found.findings, error)
    except PeftkitError as error:
        found.findings.wrong("base", error.message, "", error.hint)
    except Exception as error:  # whatever PEFT and transformers meet in it
        told = f"it cannot be loaded: {type(error).__name__}: {first_line(error)}"
        found.findings.wrong("base", told)
    return found.findings


def reach_base(found: Inspected, path: str, base: str) -> None:
    """Asks the Hub for the small files of the base that an adapter names, before the model
    libraries are imported for nothing.

    Raises:
        UnreachableError: the Hub does not give them.
    """
    spec = _named_base(found, path)
    if base:
        spec = Base(name_or_path=base)
    try:
        if spec and not spec.trust_remote_code and find_local(spec) is None:
            fetch(spec)
    except UnreachableError:
        raise
    except PeftkitError:  # loading says what is wrong with it
        return


def _named_base(found: Inspected, path: str) -> Base | None:
    """The base that an adapter names; None where it names none that can be asked for."""
    if found.record is not None:
        recipe = quick_recipe(path)
        return recipe.base if recipe else None
    config = found.config or AdapterConfig()
    name = config.text("model_name" if found.from_adapterhub else "base_model_name_or_path")
    if not HUB_ID.fullmatch(name):
        return None
    return Base(name_or_path=name, revision=config.text("revision"))


def _tell_unreachable(findings: Findings, error: UnreachableError) -> None:
    told = "tensors and answers were not checked"
    findings.note("base", error.message, told, f"{error.hint}; `--base PATH` names it")


def _tell_kinds_from_outside(findings: Findings, kinds: Mapping[str, str]) -> None:
    """Notes that an adapter's method or task is a user's class that is not imported."""
    for part, kind in kinds.items():
        findings.note(
            "base",
            f"its {part} is `{kind}`, a class from outside peftkit",
            "tensors and answers were not checked: its module is only imported if you trust it",
            f"if you trust it: {how_to_trust(kind)}",
        )


def _on_its_base(
    found: Inspected, path: str, base: str, trust_remote_code: bool, stage: Callable[[str], None]
) -> None:
    """Stage 2."""
    from peftkit.adapters.base_checks import (
        belongs_to,
        check_base_files,
        check_template,
        check_tokenizer,
    )
    from peftkit.adapters.loading import load_trained_model, open_inspected
    from peftkit.bases.devices import open_accelerator

    findings = found.findings
    adapter = open_inspected(found, path, base, trust_remote_code)
    record, recipe, opened = adapter.record, adapter.recipe, adapter.base
    if layers := _other_layers(opened, record):
        findings.wrong(
            "base", layers, "the adapter was trained on another model", belongs_to(record)
        )
        return
    stage("comparing the files of the base")
    check_base_files(opened, record)
    findings.ok("base", f"`{opened.name}`, the same bytes as in training")
    check_tokenizer(opened, record)
    check_template(opened, record)
    findings.ok("tokenizer", "vocabulary, steps and template are those of the training")
    accelerator = open_accelerator(recipe.base)
    stage("loading the adapter on its base")
    model = load_trained_model(adapter.folder, recipe, opened, record.head, accelerator.device)
    if not _tensors_are_right(findings, model):
        return
    stage("asking it and the base alone")
    with accelerator.autocast():
        _compare_answers(findings, model, record, recipe, opened, accelerator)


def _on_a_base(
    found: Inspected, path: str, base: str, trust_remote_code: bool, stage: Callable[[str], None]
) -> None:
    """Stage 2 of an adapter that peftkit did not save: all that can be told without its record."""
    from peftkit.adapters.loading import load_trained_model, open_inspected
    from peftkit.adapters.probes import distance, take_probes, tolerance
    from peftkit.adapters.published.recipe import explained
    from peftkit.bases.devices import open_accelerator, weights_dtype
    from peftkit.bases.loading import load_weights

    findings = found.findings
    for changes, told, meaning in explained(found, base):
        (findings.wrong if changes else findings.note)("settings", told, meaning)
    if not found.passed:
        return
    adapter = open_inspected(found, path, base, trust_remote_code)
    recipe, opened = adapter.recipe, adapter.base
    _tell_base(findings, adapter)
    accelerator = open_accelerator(recipe.base)
    dtype = weights_dtype(recipe.base, trains_base_weights=False)
    head, device = adapter.record.head, accelerator.device
    stage("loading the base alone")
    alone: Any = load_weights(opened, head, dtype, device, dropout=None).model.eval()
    vocabulary = min(len(opened.tokenizer), len(alone.get_input_embeddings().weight))
    with accelerator.autocast():
        before = take_probes(alone, vocabulary, (), tolerance(recipe.base))
    del alone
    stage("loading the adapter on the base")
    model = load_trained_model(adapter.folder, recipe, opened, head, device)
    if not _tensors_are_right(findings, model):
        return
    with accelerator.autocast():
        change = distance(model, before)
    _tell_effect(findings, change, trained_head=head.trained)
    if head.output == "pooled":
        _tell_answers(findings, recipe.task)


def _tell_base(findings: Findings, adapter: OpenedAdapter) -> None:
    """The base of an adapter that another program saved, and its vocabulary."""
    from peftkit.adapters import resized_vocabulary

    opened = adapter.base
    findings.note(
        "base",
        f"`{opened.name}`",
        "that it is the base of the training, and was quantized as there, cannot be told",
    )
    config, head = adapter.record.peft_config, adapter.record.head
    if told := resized_vocabulary.told(adapter.folder, config, opened, head):
        findings.note("vocabulary", told, "the adapter was trained on other tokens than the base's")


def _tell_answers(findings: Findings, task: Task) -> None:
    """What a classifier answers, where that is no class."""
    from peftkit.adapters.published.outputs import told

    there, what = told(task)
    if what:
        (findings.ok if there else findings.note)("answers", what)


def _other_layers(opened: OpenedBase, record: Record) -> str:
    """In words, where a base has another number of layers than that of the training."""
    saved = record.known_base.num_hidden_layers
    here = getattr(opened.config, "num_hidden_layers", None)
    if saved is None or saved == here:
        return ""
    return f"`{opened.name}` has {here} layers, and the base of the training had {saved}"


def _tensors_are_right(findings: Findings, model: Any) -> bool:
    """Whether what was loaded, strictly, holds finite numbers only."""
    import torch

    findings.ok("tensors", "every name and shape fits, nothing is missing, nothing is left over")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            told = f"`{name}` holds numbers that are not finite"
            findings.wrong("values", told, "answers are NaN")
            return False
    return True


def _compare_answers(
    findings: Findings,
    model: Any,
    record: Record,
    recipe: Recipe,
    opened: OpenedBase,
    accelerator: Accelerator,
) -> None:
    from peftkit.adapters.probes import compare_probes, distance, tolerance
    from peftkit.bases.devices import weights_dtype
    from peftkit.bases.loading import load_weights

    allowed = tolerance(recipe.base)
    difference = compare_probes(model, record.probes, allowed)
    findings.ok(
        "answers",
        f"{plural(len(record.probes), 'probe')} within {difference:.0e} of training's (tolerance "
        f"{allowed:.0e})",
        "it answers as it did when it was saved",
    )
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    base = load_weights(opened, record.head, dtype, accelerator.device, dropout=None).model.eval()
    change = distance(base, record.probes)
    _tell_effect(findings, change, trained_head=record.head.trained)


def _tell_effect(findings: Findings, change: float, trained_head: bool) -> None:
    if change < NO_CHANGE:
        findings.note("effect", "none: the base answers the same", "it has learned nothing")
    else:
        at = "beside an untrained head, " if trained_head else ""
        findings.ok(
            "effect", f"{at}it moves the base's logits by up to {change:.2g} of their scale"
        )
