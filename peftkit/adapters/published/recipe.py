"""Makes records and recipes for adapters saved by other programs, such as any version of PEFT."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.settings import EARLY_FIELDS, of_earlier_peft
from peftkit.adapters.published import adapterhub
from peftkit.adapters.published.adapterhub import _SavedByAdapterHub
from peftkit.adapters.published.adapterhub_head import hub_head
from peftkit.adapters.published.detection import (
    ALL_HEADS,
    HEAD_MODULES,
    HEADS,
    has_classifier,
    has_own_head,
    number_of_labels,
    task_type_of,
    tensor_names,
)
from peftkit.adapters.published.outputs import task_of_outputs
from peftkit.adapters.published.overlapping_keys import ambiguous_alpha
from peftkit.adapters.published.unsupported import NOT_LOADED, _NoTask, _SavedByPeft
from peftkit.adapters.record import Record
from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.adapters.resized_vocabulary import fit_vocabulary
from peftkit.bases.base import Base
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.data.head import Head
from peftkit.errors import AdapterError, quoted
from peftkit.methods.method import Method
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.layout import WITHOUT_EFFECT
from peftkit.methods.peft.tuners import NOT_MERGED
from peftkit.methods.peft.types import config_classes
from peftkit.recipe import Recipe
from peftkit.tasks.task import Task

UNKNOWN_DATA = "not-known"
NO_EFFECT_NEW = ("peft_version", "arrow_config", "qalora_group_size", "monteclora_config")


def published_adapter(inspected: Inspected, base: str = "") -> tuple[Record, Recipe]:
    """The record of a PEFT or AdapterHub adapter, as far as known, and a recipe that loads it.

    Args:
        base: the base's location; empty for the base that the adapter names.

    Raises:
        AdapterError: the adapter names no base that can be found, or its type cannot be loaded.
    """
    config = inspected.config
    assert config is not None
    spec = named_base(inspected, base)
    if inspected.from_adapterhub:
        return _of_adapterhub(inspected, spec)
    for changes, message, meaning in other_fields(config):
        if changes:
            raise AdapterError(f"{message}: {meaning}", "update PEFT")
    if reason := NOT_LOADED.get(config.kind):
        raise AdapterError(f"{config.kind} cannot be loaded: {reason}")
    task_type, _ = task_type_of(inspected, spec)
    head = _head(inspected, spec, task_type)
    settings = {**inspected.user_settings, **_base_head_settings(config, head)}
    method = _SavedByPeft(config=_method_config(config), settings=settings)
    return _as_record(AdapterConfig({**config, **settings}), spec, _task(task_type), method, head)


def _base_head_settings(config: AdapterConfig, head: Head) -> dict[str, object]:
    """PEFT settings for an adapter that uses the base's classifier; empty for other adapters.

    By default, PEFT expects the adapter to hold a classifier if its `task_type` needs one.
    """
    modules = HEAD_MODULES.get(config.text("task_type"), ())
    if not modules or head.trained or config.get("num_virtual_tokens"):
        return {}
    saved = [name for name in config.texts("modules_to_save") if name not in modules]
    return {"task_type": None, "modules_to_save": saved or None}


def _head(inspected: Inspected, spec: Base, task_type: str) -> Head:
    """The head of the model that an adapter was trained in.

    Raises:
        AdapterError: neither the adapter nor its base has a classifier.
    """
    count = 2 if task_type == "QUESTION_ANS" else number_of_labels(inspected)
    has_head = has_own_head(tensor_names(inspected), task_type)
    if task_type == "SEQ_CLS" and not count:
        opened = open_base(spec)
        if not has_classifier(opened):
            raise AdapterError(
                "no tensor of the classifier is in the adapter, so its answers would be random",
                "ask for an adapter that was saved with its head (`modules_to_save`), or give the "
                "base whose classifier it was trained with (`--base`)",
            )
        count = int(opened.config.num_labels)
    labels = tuple(f"LABEL_{n}" for n in range(count)) if task_type in HEAD_MODULES else ()
    return Head(ALL_HEADS[task_type], task_type, labels, trained=has_head)


def _of_adapterhub(inspected: Inspected, spec: Base) -> tuple[Record, Recipe]:
    assert inspected.config is not None
    hub = hub_head(inspected)
    if isinstance(hub, str):
        task: Task = _NoTask(reason=hub)
        head = Head(HEADS["FEATURE_EXTRACTION"], "FEATURE_EXTRACTION", trained=False)
        layers: dict[str, str] = {}
    else:
        task, layers = _task("SEQ_CLS"), hub.layers
        head = Head(HEADS["SEQ_CLS"], "SEQ_CLS", hub.labels)
    method = _SavedByAdapterHub(config=dict(inspected.config), layers=layers)
    return _as_record(inspected.config, spec, task, method, head)


def _as_record(
    config: AdapterConfig, spec: Base, task: Task, method: Method, head: Head
) -> tuple[Record, Recipe]:
    recipe = Recipe(base=spec, task=task, method=method)
    record = Record(
        recipe=RecordedRecipe.of(recipe), base=None, tokenizer_sha256="",
        chat_template_sha256="", head=head, weights={}, tensors={}, configs={},
        peft_config=config, metrics={}, probes=(), versions={},
    )  # fmt: skip
    return record, recipe


def _task(task_type: str) -> Task:
    """The task for adapters of a PEFT task type; `_NoTask` if peftkit has no task for them."""
    kinds = (kind for kind in Task.kinds.values() if issubclass(kind, Task))
    tasks = (kind.of_published(task_type, UNKNOWN_DATA) for kind in kinds)
    reason = f"it is for {task_type}, and peftkit has no such task yet"
    return next(filter(None, tasks), None) or _NoTask(reason=reason)


def complete_from_base(
    inspected: Inspected, record: Record, recipe: Recipe, base: OpenedBase
) -> tuple[Record, Recipe, OpenedBase]:
    """Completes record and recipe from the base, and gives the base the adapter's vocabulary.

    Names of classes, the meaning of outputs and stop tokens come from the base.

    Raises:
        AdapterError: the base does not fit the adapter's vocabulary.
    """
    head = record.head
    if not inspected.from_adapterhub:
        base = fit_vocabulary(inspected.folder, inspected.config or AdapterConfig(), base, head)
    if head.task_type in ("SEQ_CLS", "TOKEN_CLS"):
        names = getattr(base.config, "id2label", None) or {}
        labels = tuple(str(names.get(n, label)) for n, label in enumerate(head.labels))
        fits = len(names) == len(head.labels) and len(set(labels)) == len(labels)
        if fits and head.labels == tuple(f"LABEL_{n}" for n in range(len(labels))):
            head = dataclasses.replace(head, labels=labels)
    elif head.task_type == "CAUSAL_LM":
        ends = [base.tokenizer.eos_token_id]
        options = {"max_new_tokens": 256, "do_sample": False, "eos_token_id": ends}
        head = dataclasses.replace(head, generation=options)
    task = task_of_outputs(recipe.task, head, base.config)
    return dataclasses.replace(record, head=head), recipe.with_(task=task), base


def _method_config(config: AdapterConfig) -> dict[str, object]:
    """The fields of adapter_config.json that the method needs before the adapter is loaded."""
    fields: dict[str, object] = {"peft_type": config.kind}
    if config.get("num_virtual_tokens"):
        fields |= {name: config.get(name) for name in ("num_virtual_tokens", "num_layers")}
    fields |= {n: config[n] for n in ("layer_replication", *NOT_MERGED) if config.get(n)}
    return fields


def named_base(inspected: Inspected, base: str = "") -> Base:
    """The base that an adapter names, or `base` if given.

    Raises:
        AdapterError: the adapter names no base, or a folder that is not on this machine.
    """
    config = inspected.config or AdapterConfig()
    name = base or config.text(
        "model_name" if inspected.from_adapterhub else "base_model_name_or_path"
    )
    if not name:
        raise AdapterError("the adapter names no base", "give its base with `--base`")
    looks_local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    if not base and looks_local and not Path(name).expanduser().is_dir():
        raise AdapterError(
            f"the adapter names the base `{name}`, a folder on the machine where it was trained",
            "give the model's location here with `--base`",
        )
    revision = "" if base or looks_local else config.text("revision")
    return Base(name_or_path=name, revision=revision)


def explain(inspected: Inspected, base: str = "") -> Iterator[tuple[bool, str, str]]:
    """Yields findings on another program's adapter: (whether answers change, message, meaning)."""
    assert inspected.config is not None
    if inspected.from_adapterhub:
        yield from adapterhub.explain(inspected)
        return
    findings = list(other_fields(inspected.config))
    yield from findings
    if any(changes for changes, _, _ in findings):
        return
    tensors = {name: stored for file in inspected.tensors.values() for name, stored in file.items()}
    if ambiguous := ambiguous_alpha(inspected.config, tensors):
        meaning = (
            "the first key counts; PEFT saves keys sorted, so another may be first in training"
        )
        yield False, ambiguous, meaning
    spec = named_base(inspected, base)
    kind, why = task_type_of(inspected, spec)
    if not inspected.config.get("task_type"):
        yield False, f"no `task_type`; {kind} is assumed", why
    if kind == "SEQ_CLS" and not number_of_labels(inspected) and has_classifier(open_base(spec)):
        meaning = "the base's trained classifier is used"
        yield False, "no whole classifier is in it", meaning


def other_fields(config: AdapterConfig) -> Iterator[tuple[bool, str, str]]:
    """Yields findings on fields that the installed PEFT does not know, or that the config lacks.

    A finding is (whether answers may change, message, meaning).
    """
    kind, kinds = config.kind, config_classes()
    if kind not in kinds:
        yield True, f"`peft_type` is `{kind}`, which this PEFT does not have", "it cannot load it"
        return
    known = {field.name for field in dataclasses.fields(kinds[kind])}
    for name in sorted(config.keys() - known - set(EARLY_FIELDS)):
        value = config[name]
        changes = bool(value) and name not in (*WITHOUT_EFFECT, *NO_EFFECT_NEW)
        yield (
            changes,
            f"`{name}` is {value!r}, a field that this PEFT does not know",
            "a later PEFT or another program saved it; it "
            + ("may compute something else" if changes else "has no effect here"),
        )
    missing = sorted(known - config.keys() - {"peft_version", "auto_mapping", "runtime_config"})
    if missing:
        verb = "is" if len(missing) == 1 else "are"
        yield (
            False,
            f"{quoted(missing, 4)} {verb} not in adapter_config.json",
            "an earlier PEFT saved it; the defaults compute the same"
            if of_earlier_peft(config, missing)
            else "every PEFT writes them, so another program wrote or changed the file; defaults "
            "are used",
        )
