"""Adapters that peftkit did not save: what plain PEFT leaves, of whatever version."""

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
from peftkit.adapters.published.overlapping_keys import unsettled_alpha
from peftkit.adapters.published.unsupported import NOT_LOADED, _NoTask, _SavedByPeft
from peftkit.adapters.record import Record
from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.adapters.resized_vocabulary import fitted
from peftkit.bases.base import Base
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.data.head import Head
from peftkit.data.source import Data
from peftkit.errors import AdapterError, quoted
from peftkit.methods.method import Method
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.methods.peft.layout import WITHOUT_EFFECT
from peftkit.methods.peft.tuners import NOT_MERGED
from peftkit.methods.peft.types import config_classes
from peftkit.recipe import Recipe
from peftkit.tasks.chat import Chat
from peftkit.tasks.reading.conversations import Conversations
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification

UNKNOWN_DATA = "not-known"
NO_EFFECT_NEW = ("peft_version", "arrow_config", "qalora_group_size", "monteclora_config")


def published_adapter(found: Inspected, base: str = "") -> tuple[Record, Recipe]:
    """What is known of an adapter of plain PEFT or AdapterHub, as a record and a recipe to load it
    by.

    Args:
        base: where the base is, if not where the adapter says.

    Raises:
        AdapterError: its base is not here, or it is of a kind that is not loaded.
    """
    config = found.config
    assert config is not None
    spec = named_base(found, base)
    if found.from_adapterhub:
        return _of_adapterhub(found, spec)
    for changes, told, meaning in other_fields(config):
        if changes:
            raise AdapterError(f"{told}: {meaning}", "update PEFT")
    if reason := NOT_LOADED.get(config.kind):
        raise AdapterError(f"{config.kind} is not loaded: {reason}")
    task_type, _ = task_type_of(found, spec)
    head = _head(found, spec, task_type)
    settings = {**found.given, **_left_to_the_base(config, head)}
    method = _SavedByPeft(config=_told_to_method(config), settings=settings)
    return _as_record(AdapterConfig({**config, **settings}), spec, _task(task_type), method, head)


def _left_to_the_base(config: AdapterConfig, head: Head) -> dict[str, object]:
    """Fields by which PEFT leaves a classifier to the base, where an adapter has none of its own.

    For a `task_type` with a classifier, PEFT takes that for a part of every adapter.
    """
    modules = HEAD_MODULES.get(config.text("task_type"), ())
    if not modules or head.trained or config.get("num_virtual_tokens"):
        return {}
    saved = [name for name in config.texts("modules_to_save") if name not in modules]
    return {"task_type": None, "modules_to_save": saved or None}


def _head(found: Inspected, spec: Base, task_type: str) -> Head:
    """What the model puts out.

    Raises:
        AdapterError: neither the adapter nor its base has a classifier.
    """
    count = 2 if task_type == "QUESTION_ANS" else number_of_labels(found)
    own = has_own_head(tensor_names(found), task_type)
    if task_type == "SEQ_CLS" and not count:
        opened = open_base(spec)
        if not has_classifier(opened):
            raise AdapterError(
                "no tensor of the classifier is in it, so that its answers would be random",
                "ask for an adapter that was saved with its head (`modules_to_save`), or give the "
                "base whose classifier it was trained with (`--base`)",
            )
        count = int(opened.config.num_labels)
    labels = tuple(f"LABEL_{n}" for n in range(count)) if task_type in HEAD_MODULES else ()
    return Head(ALL_HEADS[task_type], task_type, labels, trained=own)


def _of_adapterhub(found: Inspected, spec: Base) -> tuple[Record, Recipe]:
    assert found.config is not None
    hub = hub_head(found)
    if isinstance(hub, str):
        task: Task = _NoTask(reason=hub)
        head = Head(HEADS["FEATURE_EXTRACTION"], "FEATURE_EXTRACTION", trained=False)
        layers: dict[str, str] = {}
    else:
        task, layers = _task("SEQ_CLS"), hub.layers
        head = Head(HEADS["SEQ_CLS"], "SEQ_CLS", hub.labels)
    method = _SavedByAdapterHub(config=dict(found.config), layers=layers)
    return _as_record(found.config, spec, task, method, head)


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
    if task_type == "CAUSAL_LM":
        return Chat(data=Conversations(path=UNKNOWN_DATA))
    if task_type == "SEQ_CLS":
        return TextClassification(data=Data(path=UNKNOWN_DATA))
    return _NoTask(reason=f"it is one for {task_type}, and peftkit has no task of that kind yet")


def completed(
    found: Inspected, record: Record, recipe: Recipe, base: OpenedBase
) -> tuple[Record, Recipe, OpenedBase]:
    """The same with what only the base tells: the names of the classes and what they are, where
    answers end; and the base with the adapter's vocabulary.

    Raises:
        AdapterError: the base cannot be given that vocabulary.
    """
    head = record.head
    if not found.from_adapterhub:
        base = fitted(found.folder, found.config or AdapterConfig(), base, head)
    if head.task_type in ("SEQ_CLS", "TOKEN_CLS"):
        named = getattr(base.config, "id2label", None) or {}
        labels = tuple(str(named.get(n, label)) for n, label in enumerate(head.labels))
        fits = len(named) == len(head.labels) and len(set(labels)) == len(labels)
        if fits and head.labels == tuple(f"LABEL_{n}" for n in range(len(labels))):
            head = dataclasses.replace(head, labels=labels)
    elif head.task_type == "CAUSAL_LM":
        ends = [base.tokenizer.eos_token_id]
        options = {"max_new_tokens": 256, "do_sample": False, "eos_token_id": ends}
        head = dataclasses.replace(head, generation=options)
    task = task_of_outputs(recipe.task, head, base.config)
    return dataclasses.replace(record, head=head), recipe.with_(task=task), base


def _told_to_method(config: AdapterConfig) -> dict[str, object]:
    """What the method has to know before the adapter is loaded."""
    kept: dict[str, object] = {"peft_type": config.kind}
    if config.get("num_virtual_tokens"):
        kept |= {name: config.get(name) for name in ("num_virtual_tokens", "num_layers")}
    kept |= {n: config[n] for n in ("layer_replication", *NOT_MERGED) if config.get(n)}
    return kept


def named_base(found: Inspected, base: str = "") -> Base:
    """The base of an adapter, or another one that was given.

    Raises:
        AdapterError: it names none, or one of another machine.
    """
    config = found.config or AdapterConfig()
    name = base or config.text("model_name" if found.from_adapterhub else "base_model_name_or_path")
    if not name:
        raise AdapterError("it names no base", "say where that is with `--base`")
    looks_local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    if not base and looks_local and not Path(name).expanduser().is_dir():
        raise AdapterError(
            f"it names the base `{name}`, a folder of the machine where it was trained",
            "say with `--base` which model that is here",
        )
    revision = "" if base or looks_local else config.text("revision")
    return Base(name_or_path=name, revision=revision)


def explained(found: Inspected, base: str = "") -> Iterator[tuple[bool, str, str]]:
    """What a person should know of an adapter that peftkit did not save: whether it changes what
    is computed, what was found, what it means.
    """
    assert found.config is not None
    if found.from_adapterhub:
        yield from adapterhub.explained(found)
        return
    told = list(other_fields(found.config))
    yield from told
    if any(changes for changes, _, _ in told):
        return
    tensors = {name: stored for file in found.tensors.values() for name, stored in file.items()}
    if unsettled := unsettled_alpha(found.config, tensors):
        meaning = "the first key counts, and PEFT saves them sorted: in training it may be another"
        yield False, unsettled, meaning
    spec = named_base(found, base)
    kind, why = task_type_of(found, spec)
    if not found.config.get("task_type"):
        yield False, f"no `task_type`; it is taken for {kind}", why
    if kind == "SEQ_CLS" and not number_of_labels(found) and has_classifier(open_base(spec)):
        meaning = "its answers go through the base's own, which is trained"
        yield False, "no whole classifier is in it", meaning


def other_fields(config: AdapterConfig) -> Iterator[tuple[bool, str, str]]:
    """How an adapter_config.json differs from what this PEFT writes: whether that changes what is
    computed, what was found, what it means.
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
            "an earlier PEFT saved it; they take their defaults, which compute what it did"
            if of_earlier_peft(config, missing)
            else "no PEFT leaves them out, so another program wrote or changed the file; they take "
            "their defaults",
        )
