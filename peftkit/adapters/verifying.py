"""`peftkit verify`: whether an adapter is what it says, first from its bytes, then on its base."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from peftkit.adapters.findings import Findings
from peftkit.adapters.hub import on_this_machine
from peftkit.adapters.inspecting import Inspected, inspect
from peftkit.errors import PeftkitError, UnreachableError, first_line
from peftkit.terminal import plural

if TYPE_CHECKING:
    from accelerate import Accelerator

    from peftkit.adapters.record import Record
    from peftkit.bases.opening import OpenedBase
    from peftkit.recipe import Recipe

NO_CHANGE = 1e-7
"""Of the logits' scale: below it an adapter does nothing."""


def verify(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    before_loading: Callable[[], None] = lambda: None,
    stage: Callable[[str], None] = lambda _: None,
) -> Findings:
    """All checks of an adapter, as far as they can be made.

    Args:
        path: a run folder or an adapter folder.
        base: where the base is, if not where the adapter says.
        trust_remote_code: whether code that lies beside the base may run.
        before_loading: called when the first stage has passed, before torch is imported.
        stage: called with what is done next.

    Raises:
        AdapterError: it is no adapter.
    """
    found = inspect(path := on_this_machine(path))
    if not found.passed:
        found.findings.note(
            "base", "not opened", "an adapter that is not as it was saved is not loaded"
        )
        return found.findings
    before_loading()
    try:
        on_base = _on_its_base if found.record is not None else _on_a_base
        on_base(found, path, base, trust_remote_code, stage)
    except UnreachableError as error:
        told = "tensors and answers were not compared with anything"
        found.findings.note("base", error.message, told, f"{error.hint}; `--base PATH` names it")
    except PeftkitError as error:
        found.findings.wrong("base", error.message, "", error.hint)
    except Exception as error:  # whatever PEFT and transformers meet in it
        told = f"it cannot be loaded: {type(error).__name__}: {first_line(error)}"
        found.findings.wrong("base", told)
    return found.findings


def _on_its_base(
    found: Inspected, path: str, base: str, trust_remote_code: bool, stage: Callable[[str], None]
) -> None:
    """Stage 2."""
    from peftkit.adapters.loading import (
        belongs_to,
        check_base_files,
        check_template,
        check_tokenizer,
        load_trained_model,
        read_inspected,
    )
    from peftkit.bases.opening import open_base
    from peftkit.training.devices import open_accelerator

    findings = found.findings
    folder, record, recipe = read_inspected(found, path, base, trust_remote_code)
    opened = open_base(recipe.base, recipe.method.position_offset)
    recipe = recipe.with_(base=opened.spec)
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
    model = load_trained_model(folder, recipe, opened, record.head, accelerator.device)
    if not _tensors_are_right(findings, model):
        return
    stage("asking it and the base alone")
    with accelerator.autocast():
        _compare_answers(findings, model, record, recipe, opened, accelerator)


def _on_a_base(
    found: Inspected, path: str, base: str, trust_remote_code: bool, stage: Callable[[str], None]
) -> None:
    """Stage 2 of an adapter that peftkit did not save: all that can be told without its record."""
    from peftkit.adapters.loading import load_trained_model, read_inspected
    from peftkit.adapters.probes import distance, take_probes, tolerance
    from peftkit.adapters.published import completed, explained
    from peftkit.bases.loading import load_weights
    from peftkit.bases.opening import open_base
    from peftkit.training.devices import open_accelerator, weights_dtype

    findings = found.findings
    for changes, told, meaning in explained(found, base):
        (findings.wrong if changes else findings.note)("settings", told, meaning)
    if not found.passed:
        return
    folder, record, recipe = read_inspected(found, path, base, trust_remote_code)
    opened = open_base(recipe.base, recipe.method.position_offset)
    record, recipe = completed(record, opened), recipe.with_(base=opened.spec)
    findings.note(
        "base",
        f"`{opened.name}`",
        "that it is the base of the training, and was quantized as there, cannot be told",
    )
    accelerator = open_accelerator(recipe.base)
    dtype = weights_dtype(recipe.base, trains_base_weights=False)
    head, device = record.head, accelerator.device
    stage("loading the base alone")
    alone: Any = load_weights(opened, head, dtype, device, dropout=None).model.eval()
    vocabulary = min(len(opened.tokenizer), len(alone.get_input_embeddings().weight))
    with accelerator.autocast():
        before = take_probes(alone, vocabulary, (), tolerance(recipe.base))
    del alone
    stage("loading the adapter on the base")
    model = load_trained_model(folder, recipe, opened, head, device)
    if not _tensors_are_right(findings, model):
        return
    with accelerator.autocast():
        change = distance(model, before)
    _tell_effect(findings, change, trained_head=head.trained)


def _other_layers(opened: OpenedBase, record: Record) -> str:
    """In words, where a base has another number of layers than that of the training."""
    saved = record.base.get("num_hidden_layers")
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
    from peftkit.bases.loading import load_weights
    from peftkit.training.devices import weights_dtype

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
