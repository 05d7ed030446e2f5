"""`peftkit verify`: checks an adapter's bytes, then its tensors and answers on its base."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from peftkit.adapters.folders import HUB_ID
from peftkit.adapters.hub import local_path
from peftkit.adapters.inspection.findings import Findings
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.own_classes import trust_hint, unimported_classes
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
"""Smallest change of the logits, relative to their scale, that counts as an effect."""


def verify(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    before_loading: Callable[[], None] = lambda: None,
    settings: Mapping[str, object] | None = None,
    stage: Callable[[str], None] = lambda _: None,
) -> Findings:
    """Runs all checks that are possible for an adapter.

    Args:
        path: a run folder, an adapter folder, or a Hub id.
        base: the base's location; empty for the base that the adapter names.
        trust_remote_code: whether code stored with the base may run.
        before_loading: called once the bytes have passed, before torch is imported.
        settings: values of fields missing in adapter_config.json.
        stage: called with the name of each step before it starts.

    Raises:
        AdapterError: `path` holds no adapter.
        RecipeError: `settings` has a field that the adapter's type lacks, or contradicts the
            adapter_config.json.
    """
    inspected = inspect(path := local_path(path), settings)
    if not inspected.passed:
        if inspected.findings.is_adapter:
            meaning = "nothing is loaded while something in the folder is wrong"
            inspected.findings.note("base", "not opened", meaning)
        return inspected.findings
    if kinds := unimported_classes(inspected.record):
        _note_unimported_classes(inspected.findings, kinds)
        return inspected.findings
    try:
        reach_base(inspected, path, base)
    except UnreachableError as error:
        _note_unreachable(inspected.findings, error)
        return inspected.findings
    before_loading()
    try:
        check = _check_with_record if inspected.record is not None else _check_without_record
        check(inspected, path, base, trust_remote_code, stage)
    except UnreachableError as error:
        _note_unreachable(inspected.findings, error)
    except PeftkitError as error:
        inspected.findings.wrong("base", error.message, "", error.hint)
    except Exception as error:  # PEFT and transformers raise many types
        message = f"it cannot be loaded: {type(error).__name__}: {first_line(error)}"
        inspected.findings.wrong("base", message)
    return inspected.findings


def reach_base(inspected: Inspected, path: str, base: str) -> None:
    """Downloads the small files of an adapter's base.

    An unreachable base is thus reported before the slow import of model libraries.

    Raises:
        UnreachableError: the Hub cannot provide the files.
    """
    spec = _named_base(inspected, path)
    if base:
        spec = Base(name_or_path=base)
    try:
        if spec and not spec.trust_remote_code and find_local(spec) is None:
            fetch(spec)
    except UnreachableError:
        raise
    except PeftkitError:  # loading reports what is wrong
        return


def _named_base(inspected: Inspected, path: str) -> Base | None:
    """The base in peftkit.json's recipe, or the Hub base that another program's adapter names."""
    if inspected.record is not None:
        recipe = quick_recipe(path)
        return recipe.base if recipe else None
    config = inspected.config or AdapterConfig()
    name = config.text("model_name" if inspected.from_adapterhub else "base_model_name_or_path")
    if not HUB_ID.fullmatch(name):
        return None
    return Base(name_or_path=name, revision=config.text("revision"))


def _note_unreachable(findings: Findings, error: UnreachableError) -> None:
    meaning = "tensors and answers were not checked"
    findings.note("base", error.message, meaning, f"{error.hint}; or give it with `--base PATH`")


def _note_unimported_classes(findings: Findings, kinds: Mapping[str, str]) -> None:
    """Records a note on each method or task from outside peftkit that is not imported yet."""
    for part, kind in kinds.items():
        findings.note(
            "base",
            f"its {part} is `{kind}`, a class from outside peftkit",
            "tensors and answers were not checked: its module is imported only if you trust it",
            f"if you trust it: {trust_hint(kind)}",
        )


def _check_with_record(
    inspected: Inspected,
    path: str,
    base: str,
    trust_remote_code: bool,
    stage: Callable[[str], None],
) -> None:
    """Checks base, tensors and answers of an adapter that peftkit saved (stage 2)."""
    from peftkit.adapters.base_checks import (
        check_base_files,
        check_template,
        check_tokenizer,
        other_base_hint,
    )
    from peftkit.adapters.loading import load_trained_model, open_inspected
    from peftkit.bases.devices import open_accelerator

    findings = inspected.findings
    adapter = open_inspected(inspected, path, base, trust_remote_code)
    record, recipe, opened = adapter.record, adapter.recipe, adapter.base
    if layers := _layer_mismatch(opened, record):
        findings.wrong(
            "base", layers, "the adapter was trained on another model", other_base_hint(record)
        )
        return
    stage("comparing the files of the base")
    check_base_files(opened, record)
    findings.ok("base", f"`{opened.name}`, the same bytes as in training")
    check_tokenizer(opened, record)
    check_template(opened, record)
    findings.ok("tokenizer", "vocabulary, steps and chat template are those used in training")
    accelerator = open_accelerator(recipe.base)
    stage("loading the adapter on its base")
    model = load_trained_model(adapter.folder, recipe, opened, record.head, accelerator.device)
    if not _check_tensors(findings, model):
        return
    stage("comparing its answers with the record and the base alone")
    with accelerator.autocast():
        _compare_answers(findings, model, record, recipe, opened, accelerator)


def _check_without_record(
    inspected: Inspected,
    path: str,
    base: str,
    trust_remote_code: bool,
    stage: Callable[[str], None],
) -> None:
    """Checks another program's adapter on its base, without a record to compare with (stage 2)."""
    from peftkit.adapters.loading import load_trained_model, open_inspected
    from peftkit.adapters.probes import distance, take_probes, tolerance
    from peftkit.adapters.published.recipe import explain
    from peftkit.bases.devices import open_accelerator, weights_dtype
    from peftkit.bases.loading import load_weights

    findings = inspected.findings
    for changes, message, meaning in explain(inspected, base):
        (findings.wrong if changes else findings.note)("settings", message, meaning)
    if not inspected.passed:
        return
    adapter = open_inspected(inspected, path, base, trust_remote_code)
    recipe, opened = adapter.recipe, adapter.base
    _note_base(findings, adapter)
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
    if not _check_tensors(findings, model):
        return
    with accelerator.autocast():
        change = distance(model, before)
    _record_effect(findings, change, trained_head=head.trained)
    if head.output == "pooled":
        _record_answers(findings, recipe.task)


def _note_base(findings: Findings, adapter: OpenedAdapter) -> None:
    """Records notes on the base and the vocabulary used for another program's adapter."""
    from peftkit.adapters.resized_vocabulary import vocabulary_note

    opened = adapter.base
    findings.note(
        "base",
        f"`{opened.name}`",
        "whether it is the base of training, with the same quantization, cannot be checked",
    )
    config, head = adapter.record.peft_config, adapter.record.head
    if note := vocabulary_note(adapter.folder, config, opened, head):
        findings.note("vocabulary", note, "the adapter was trained on other tokens than the base's")


def _record_answers(findings: Findings, task: Task) -> None:
    """Records what a classifier's answers mean, unless the answers are classes."""
    from peftkit.adapters.published.outputs import answers_note

    has_answers, note = answers_note(task)
    if note:
        (findings.ok if has_answers else findings.note)("answers", note)


def _layer_mismatch(opened: OpenedBase, record: Record) -> str:
    """A message if the base has another number of layers than in training; empty if not."""
    saved = record.known_base.num_hidden_layers
    here = getattr(opened.config, "num_hidden_layers", None)
    if saved is None or saved == here:
        return ""
    return f"`{opened.name}` has {here} layers, and the base of training had {saved}"


def _check_tensors(findings: Findings, model: Any) -> bool:
    """Records that all tensors fit, and a problem if a number in them is not finite.

    Returns whether all numbers are finite.
    """
    import torch

    findings.ok("tensors", "every name and shape fits, nothing is missing, nothing is left over")
    for name, parameter in model.named_parameters():
        if parameter.is_floating_point() and not bool(torch.isfinite(parameter).all()):
            message = f"`{name}` holds numbers that are not finite"
            findings.wrong("values", message, "answers are NaN")
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
    _record_effect(findings, change, trained_head=record.head.trained)


def _record_effect(findings: Findings, change: float, trained_head: bool) -> None:
    if change < NO_CHANGE:
        findings.note("effect", "none: the base answers the same", "it has learned nothing")
    else:
        at = "beside an untrained head, " if trained_head else ""
        findings.ok(
            "effect", f"{at}it moves the base's logits by up to {change:.2g} of their scale"
        )
