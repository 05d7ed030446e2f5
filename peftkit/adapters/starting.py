"""Finds, checks and restores the saved adapter from which training starts (`start_from`)."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from peftkit.adapters.base_checks import CHAT_TEMPLATE, check_base_files, check_tokenizer
from peftkit.adapters.hub import local_path
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.inspection.settings import missing_settings
from peftkit.adapters.record import Record, chat_template_sha256
from peftkit.bases.added_tokens import restore_added_tokens
from peftkit.bases.files import has_weights
from peftkit.bases.opened import OpenedBase
from peftkit.data.head import Head
from peftkit.data.packaged import sha256_of
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft.adapter_config import CONFIG, AdapterConfig, read_config
from peftkit.recipe import Recipe


@dataclass(frozen=True)
class Start:
    """A saved adapter to start training from."""

    name: str
    """The recipe's `start_from`: the adapter's folder or Hub id."""
    folder: Path
    record: Record | None
    """The content of peftkit.json; None if another program saved the adapter."""

    def note(self, base: OpenedBase) -> str:
        """A note that the base cannot be checked; empty for adapters that peftkit saved."""
        if self.record is not None:
            return ""
        name = read_config(self.folder).text("base_model_name_or_path") or "no base"
        return (
            f"the adapter to start from names `{name}`; whether that is the same model as "
            f"`{base.name}` cannot be checked"
        )

    def weights(self) -> dict[str, str]:
        """Name of each weight file of the adapter -> its SHA-256."""
        files = sorted(self.folder.glob("*.safetensors"))
        return {file.name: sha256_of(file) for file in files}


def find_start(recipe: Recipe) -> Start | None:
    """Finds the adapter a recipe starts from, and inspects its files; None without `start_from`.

    Raises:
        AdapterError: the adapter does not exist, was changed, or cannot be trained further.
    """
    name = recipe.start_from
    if not name:
        return None
    inspected = inspect(local_path(name))
    if inspected.record is None and (
        missing := missing_settings(inspected.config or AdapterConfig())
    ):
        raise AdapterError(
            f"`start_from`: {quoted(missing)} is not in {CONFIG} of the adapter in "
            f"`{inspected.folder}`",
            "if you know the value, write it into a copy of the adapter",
        )
    inspected.raise_if_wrong()
    if inspected.from_adapterhub:
        raise AdapterError(
            f"`start_from`: the adapter in `{inspected.folder}` is an AdapterHub adapter, which "
            "peftkit loads but does not train further",
            "train it with the `adapters` library, or start without it",
        )
    record = None if inspected.record is None else Record.read(inspected.folder)
    return Start(name, inspected.folder, record)


def check_start(start: Start, base: OpenedBase, head: Head) -> None:
    """Compares an adapter's record with a run's base and task, before weights are loaded.

    Raises:
        AdapterError: the adapter was trained for another base, head, labels, added tokens or chat
            template.
    """
    record = start.record
    if record is None:
        return
    saved, wanted = (
        (h.task_type, h.labels, h.pooling, h.markers, h.num_outputs, h.problem_type)
        for h in (record.head, head)
    )
    if saved != wanted:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` is for {_head_summary(record.head)}, "
            f"and this run is for {_head_summary(head)}",
            "leave `start_from` out, or use the same labels"
            + " and the same `task.pooling`" * (record.head.pooling != head.pooling),
        )
    added = record.recipe.added_tokens
    if added != base.spec.added_tokens:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` has the added tokens {quoted(added)}, "
            f"and `base.added_tokens` is {quoted(base.spec.added_tokens)}",
            "give the same tokens",
        )
    check_tokenizer(base, record)
    if head.generation and chat_template_sha256(base.tokenizer) != record.chat_template_sha256:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` was trained with another chat template",
            f"use `--base.chat-template {start.folder / CHAT_TEMPLATE}`",
        )
    if has_weights(base):
        check_base_files(base, record)


def restore_start(model: nn.Module, start: Start, recipe: Recipe, base: OpenedBase) -> None:
    """Copies a saved adapter's tensors into a model in which the recipe's method is injected.

    Raises:
        AdapterError: the tensors do not fit the model, or the adapter is for another base.
    """
    if start.record is not None:
        check_base_files(base, start.record)  # a Hub base's weights are here only now
    recipe.method.restore(model, start.folder)
    restore_added_tokens(model, start.folder)


def _head_summary(head: Head) -> str:
    labels = f" with the labels {quoted(head.labels)}" if head.labels else ""
    return f"{head.task_type}{labels}" + (f', pooling "{head.pooling}"' if head.pooling else "")
