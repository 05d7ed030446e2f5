"""A new training that starts from a saved adapter, of our own or of others."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from peftkit.adapters.base_checks import CHAT_TEMPLATE, check_base_files, check_tokenizer
from peftkit.adapters.hub import on_this_machine
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
    """A saved adapter to go on from."""

    name: str
    """As the recipe names it."""
    folder: Path
    record: Record | None
    """None for an adapter that peftkit did not save, of which the base cannot be told."""

    def note(self, base: OpenedBase) -> str:
        """What a person should know of it; empty for an adapter of peftkit's."""
        if self.record is not None:
            return ""
        named = read_config(self.folder).text("base_model_name_or_path") or "no base"
        return (
            f"the adapter to start from names `{named}`, and whether that is `{base.name}` as it "
            "is here cannot be told"
        )

    def weights(self) -> dict[str, str]:
        """File name -> SHA-256."""
        files = sorted(self.folder.glob("*.safetensors"))
        return {file.name: sha256_of(file) for file in files}


def find_start(recipe: Recipe) -> Start | None:
    """The adapter that a recipe starts from, its files compared with its record.

    Raises:
        AdapterError: there is none, or a file was changed.
    """
    name = recipe.start_from
    if not name:
        return None
    found = inspect(on_this_machine(name))
    if found.record is None and (missing := missing_settings(found.config or AdapterConfig())):
        raise AdapterError(
            f"`start_from`: {quoted(missing)} of the adapter in `{found.folder}` is not known: it "
            f"is not in {CONFIG}",
            "if you know it, write it into a copy of the adapter",
        )
    found.raise_if_wrong()
    if found.from_adapterhub:
        raise AdapterError(
            f"`start_from`: the adapter in `{found.folder}` is one of AdapterHub's, which peftkit "
            "loads but does not train further",
            "train it with the `adapters` library, or begin anew",
        )
    record = None if found.record is None else Record.read(found.folder)
    return Start(name, found.folder, record)


def check_start(start: Start, base: OpenedBase, head: Head) -> None:
    """Compares what an adapter says of itself with a run's base and task, before weights.

    Raises:
        AdapterError: it was trained on another base, with another chat template, for another kind
            of head or for other labels.
    """
    record = start.record
    if record is None:
        return
    there, here = (
        (h.task_type, h.labels, h.pooling, h.num_outputs, h.problem_type)
        for h in (record.head, head)
    )
    if there != here:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` is for {_told(record.head)}, and this "
            f"run is for {_told(head)}",
            "begin anew, or give the data the same labels"
            + " and `task.pooling` the same value" * (record.head.pooling != head.pooling),
        )
    added = record.recipe.added_tokens
    if added != base.spec.added_tokens:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` has the added tokens {quoted(added)}, "
            f"and `base.added_tokens` is {quoted(base.spec.added_tokens)}",
            "give the same",
        )
    check_tokenizer(base, record)
    if head.generation and chat_template_sha256(base.tokenizer) != record.chat_template_sha256:
        raise AdapterError(
            f"`start_from`: the adapter in `{start.folder}` was trained with another chat template",
            f"`--base.chat-template {start.folder / CHAT_TEMPLATE}`",
        )
    if has_weights(base):
        check_base_files(base, record)


def restore_start(model: nn.Module, start: Start, recipe: Recipe, base: OpenedBase) -> None:
    """Puts the adapter's tensors into a model into which the method was injected.

    Raises:
        AdapterError: they do not fit, or belong to another base.
    """
    if start.record is not None:
        check_base_files(base, start.record)  # of a Hub base, they are here only now
    recipe.method.restore(model, start.folder)
    restore_added_tokens(model, start.folder)


def _told(head: Head) -> str:
    labels = f" with the labels {quoted(head.labels)}" if head.labels else ""
    return f"{head.task_type}{labels}" + (f', pooling "{head.pooling}"' if head.pooling else "")
