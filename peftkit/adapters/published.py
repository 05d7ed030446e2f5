"""Adapters that peftkit did not save: what plain PEFT leaves, of whatever version."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from peftkit.adapters.inspecting import Inspected
from peftkit.adapters.record import Record
from peftkit.bases.base import Base
from peftkit.bases.opening import OpenedBase
from peftkit.data.encoded import Head
from peftkit.data.source import Data
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft_layout import WITHOUT_EFFECT
from peftkit.methods.peft_method import PeftMethod
from peftkit.recipe import Recipe
from peftkit.tasks.chat import Chat
from peftkit.tasks.conversations import Conversations
from peftkit.tasks.task import Task
from peftkit.tasks.text_classification import TextClassification

UNKNOWN_DATA = "not-known"
HEADS = {"CAUSAL_LM": "AutoModelForCausalLM", "SEQ_CLS": "AutoModelForSequenceClassification"}
NO_EFFECT_NEW = ("peft_version", "arrow_config", "qalora_group_size", "monteclora_config")


def published_adapter(found: Inspected, base: str = "") -> tuple[Record, Recipe]:
    """What is known of an adapter of plain PEFT, as a record and a recipe to load it by.

    Args:
        base: where the base is, if not where the adapter says.

    Raises:
        AdapterError: its base is not here, or peftkit has no task of its kind.
    """
    config = found.config
    assert config is not None
    for changes, told, meaning in other_fields(config):
        if changes:
            raise AdapterError(f"{told}: {meaning}", "update PEFT")
    task_type = config.get("task_type")
    if task_type not in HEADS:
        raise AdapterError(
            f"its `task_type` is `{task_type}`, and peftkit loads {quoted(HEADS)} of adapters that "
            "it has not saved itself",
            "set `task_type` in adapter_config.json if you know what it was trained for",
        )
    count = _number_of_labels(found)
    if task_type == "SEQ_CLS" and not count:
        raise AdapterError(
            "no tensor of the classifier is in it, so that its answers would be random",
            "ask for an adapter that was saved with its head (`modules_to_save`)",
        )
    task: Task = Chat(data=Conversations(path=UNKNOWN_DATA))
    if task_type == "SEQ_CLS":
        task = TextClassification(data=Data(path=UNKNOWN_DATA))
    recipe = Recipe(
        base=Base(name_or_path=_base_of(config, base), revision=_revision(config, base)),
        task=task,
        method=PeftMethod(config={"peft_type": config["peft_type"], **_virtual(config)}),
    )
    labels = tuple(f"LABEL_{n}" for n in range(count))
    head = Head(HEADS[task_type], task_type, labels, trained=task_type == "SEQ_CLS")
    record = Record(
        recipe=json.loads(recipe.model_dump_json()), base={}, tokenizer_sha256="",
        chat_template_sha256="", head=head, weights={}, tensors={}, configs={},
        peft_config=config, metrics={}, probes=(), versions={},
    )  # fmt: skip
    return record, recipe


def completed(record: Record, base: OpenedBase) -> Record:
    """The record with what only the base tells: the names of the classes, where answers end."""
    head = record.head
    if head.task_type == "SEQ_CLS":
        named = getattr(base.config, "id2label", None) or {}
        labels = tuple(str(named.get(n, label)) for n, label in enumerate(head.labels))
        if len(named) == len(head.labels) and len(set(labels)) == len(labels):
            head = dataclasses.replace(head, labels=labels)
    elif not head.generation:
        ends = [base.tokenizer.eos_token_id]
        options = {"max_new_tokens": 256, "do_sample": False, "eos_token_id": ends}
        head = dataclasses.replace(head, generation=options)
    return dataclasses.replace(record, head=head)


def _virtual(config: dict[str, Any]) -> dict[str, Any]:
    number = config.get("num_virtual_tokens")
    return {"num_virtual_tokens": number} if number else {}


def _base_of(config: dict[str, Any], base: str) -> str:
    name = base or config.get("base_model_name_or_path")
    if not name:
        raise AdapterError("it names no base", "say where that is with `--base`")
    looks_local = name.startswith(("/", "~", ".")) or "\\" in name or name.count("/") > 1
    if not base and looks_local and not Path(name).expanduser().is_dir():
        raise AdapterError(
            f"it names the base `{name}`, a folder of the machine where it was trained",
            "say with `--base` which model that is here",
        )
    return str(name)


def _revision(config: dict[str, Any], base: str) -> str:
    return "" if base else str(config.get("revision") or "")


def _number_of_labels(found: Inspected) -> int:
    for tensors in found.tensors.values():
        for name, stored in tensors.items():
            if name.endswith(("classifier.weight", "score.weight", "classifier.out_proj.weight")):
                return stored.shape[0]
    return 0


def other_fields(config: dict[str, Any]) -> Iterator[tuple[bool, str, str]]:
    """How an adapter_config.json differs from what this PEFT writes: whether that changes what is
    computed, what was found, what it means.
    """
    from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

    kinds = {str(getattr(k, "value", k)): v for k, v in PEFT_TYPE_TO_CONFIG_MAPPING.items()}
    kind = config["peft_type"]
    if kind not in kinds:
        yield True, f"`peft_type` is `{kind}`, which this PEFT does not have", "it cannot load it"
        return
    known = {field.name for field in dataclasses.fields(kinds[kind])}
    for name in sorted(config.keys() - known):
        value = config[name]
        changes = bool(value) and name not in (*WITHOUT_EFFECT, *NO_EFFECT_NEW)
        yield (
            changes,
            f"`{name}` is {value!r}, a field that this PEFT does not know",
            "a later PEFT saved it, and may compute something else"
            if changes
            else "a later PEFT saved it; it has no effect here",
        )
    missing = sorted(known - config.keys() - {"peft_version", "auto_mapping", "runtime_config"})
    if missing:
        yield (
            False,
            f"{quoted(missing, 4)} are not in adapter_config.json",
            "an earlier PEFT saved it; they take their defaults, which compute what it did",
        )
