"""From a folder on disk back to a model that answers, with everything checked on the way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import set_seed
from torch import nn

from peftkit.adapters.base_checks import CHAT_TEMPLATE, check_base
from peftkit.adapters.hub import on_this_machine
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.probes import compare_probes, tolerance
from peftkit.adapters.published.recipe import completed, published_adapter
from peftkit.adapters.published.unsupported import check_nothing_is_random
from peftkit.adapters.record import Record
from peftkit.adapters.saved_recipe import recipe_of
from peftkit.bases.added_tokens import load_added_tokens
from peftkit.bases.devices import open_accelerator, weights_dtype
from peftkit.bases.loading import load_weights
from peftkit.bases.opened import OpenedBase
from peftkit.bases.opening import open_base
from peftkit.bases.quiet_libraries import quietly
from peftkit.bases.token_ids import check_ids
from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.data.rows import Row
from peftkit.errors import AdapterError, RecipeError
from peftkit.evaluation.scoring import keep_outputs
from peftkit.methods.peft.adapter_config import AdapterConfig, read_config
from peftkit.recipe import Recipe
from peftkit.tasks.answers import Answer, Reply
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.generating import write
from peftkit.training.progress import Pace, Say, silent

OTHER_SEED = 20_261_123
"""A head that is not loaded but left at random differs from the trained one, and is noticed."""


@dataclass(frozen=True)
class LoadedAdapter:
    """A trained model, ready to answer."""

    model: nn.Module
    base: OpenedBase
    recipe: Recipe
    record: Record
    accelerator: Accelerator

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer, with the chat template of the training."""
        return self.base.tokenizer

    @quietly()
    def predict(self, inputs: Sequence[Any], say: Say = silent) -> Sequence[Answer]:
        """An answer for each input: a class, or the number of a model that gives one, for a text
        or a mapping of `text` and `text_pair`; a reply to a text, or to a list of messages.

        Args:
            say: called with how far it is, where that takes long.

        Raises:
            PeftkitError: an input is nothing that the task can answer.
        """
        if isinstance(inputs, str | bytes | Mapping):
            raise RecipeError(
                f"what is to be answered is one {type(inputs).__name__}, not a list of inputs",
                "put it into a list: `predict([...])`",
            )
        if not len(inputs):
            return []
        progress = Pace(say, "answers", len(inputs)).advance
        if self.record.head.generation:
            return [Reply(text) for text in self.write(inputs, progress=progress)]
        task = self.recipe.task
        engine = Engine.of(
            self.model,
            self.record.head,
            task.loss(),
            self.tokenizer.pad_token_id,
            self.recipe.training.micro_batch_tokens,
            self.accelerator,
        )
        examples = self._encode(inputs)
        kept = keep_outputs(engine, examples, task.reduce_outputs, progress)
        return task.answers(kept, examples, self.record.head, self.record.decision)

    @quietly()
    def write(
        self,
        inputs: Sequence[Any],
        model: nn.Module | None = None,
        progress: Callable[[int], None] | None = None,
        **settings: Any,
    ) -> list[str]:
        """The text that the model, or another one, writes for each input.

        Args:
            progress: called with the number of inputs that were answered, again and again.
            settings: options of transformers' `generate` that go before the recipe's.
        """
        prompts = list(self._encode(inputs).input_ids)
        with self.accelerator.autocast():
            return write(
                self.model if model is None else model,
                prompts,
                self.record.head,
                self.tokenizer,
                progress,
                **settings,
            )

    @quietly()
    def load_base(self) -> nn.Module:
        """The base alone, as it was before training."""
        head, device = self.record.head, self.accelerator.device
        dtype = weights_dtype(self.recipe.base, self.recipe.method.trains_base_weights)
        return load_weights(self.base, head, dtype, device, dropout=None).model.eval()

    def _encode(self, inputs: Sequence[Any]) -> Examples:
        task = self.recipe.task
        try:
            json.dumps(list(inputs), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RecipeError("what is to be answered is not UTF-8 text", "convert it") from error
        except TypeError as error:
            raise RecipeError(
                f"what is to be answered is no text, list or mapping of texts: {error}",
                "give a string, or a list or dict of strings",
            ) from error
        values = [task.as_input(value) for value in inputs]
        rows = [Row(number, row) for number, row in enumerate(values, start=1)]
        encoded = task.encode_inputs(rows, self.base, self.record.head)
        check_ids(self.base, encoded.input_ids)
        return encoded


@dataclass(frozen=True)
class OpenedAdapter:
    """An adapter whose bytes have passed, and its base, without weights in memory."""

    folder: Path
    record: Record
    """Completed from the base, if another tool has saved the adapter."""
    recipe: Recipe
    base: OpenedBase

    @property
    def dtype(self) -> torch.dtype:
        """Of the base's weights in training; where that is not known, of those that are loaded."""
        if self.record.base:
            return getattr(torch, self.record.base.dtype)  # type: ignore[no-any-return]
        return weights_dtype(self.recipe.base, self.recipe.method.trains_base_weights)

    @property
    def peft_config(self) -> AdapterConfig:
        """adapter_config.json, with what was given for it; empty for methods that have none."""
        return read_config(self.folder) if self.record.base else self.record.peft_config

    def check_base(self) -> None:
        """Raises AdapterError unless the base is that of the training, as far as it is known."""
        if self.record.base:
            check_base(self.base, self.record)


def open_adapter(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
) -> OpenedAdapter:
    """An adapter of peftkit's own, or one that PEFT or AdapterHub has saved; its base is opened,
    and not compared yet.

    Args:
        path: a run folder, an adapter folder, or a Hub id (`org/name`, `org/name@revision`).
        base: where the base is, if not where the recipe says.
        trust_remote_code: whether code that lies beside the base may run, if the recipe asks it.
        settings: fields that adapter_config.json lacks, and their values.

    Raises:
        AdapterError: it is none, a file was changed, or it is not safe to load.
        RecipeError: the settings are none of the adapter's type, or not missing.
    """
    found = inspect(path := on_this_machine(path), settings)
    found.raise_if_wrong()
    return open_inspected(found, path, base, trust_remote_code)


def open_inspected(
    found: Inspected, path: str, base: str, trust_remote_code: bool
) -> OpenedAdapter:
    """As `open_adapter`, of an adapter whose bytes have passed."""
    folder, record, recipe = _read(found, path, base, trust_remote_code)
    opened = open_base(recipe.base, recipe.method.position_offset, recipe.task.one_output)
    recipe = recipe.with_(base=opened.spec)
    if not record.base:
        record, recipe, opened = completed(found, record, recipe, opened)
    return OpenedAdapter(folder, record, recipe, opened)


def load(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
) -> LoadedAdapter:
    """Loads an adapter on its base; arguments as for `open_adapter`.

    Raises:
        AdapterError: a file was changed, the base is another one, or the probes differ.
    """
    found = open_adapter(path, base, trust_remote_code, settings)
    found.check_base()
    recipe, record = found.recipe, found.record
    accelerator = open_accelerator(recipe.base)
    model, _ = load_proven(found.folder, recipe, found.base, record, accelerator)
    return LoadedAdapter(model, found.base, recipe, record, accelerator)


def _read(
    found: Inspected, path: str, base: str, trust_remote_code: bool
) -> tuple[Path, Record, Recipe]:
    """The adapter folder of a path, what it says of itself, and the recipe to load it by."""
    if found.record is None:
        return found.folder, *published_adapter(found, base)
    record = Record.read(found.folder)
    recipe = recipe_of(Path(path).expanduser(), record.recipe.text)
    if base:
        recipe = recipe.with_(base=recipe.base.with_(name_or_path=base, revision=""))
    if recipe.base.trust_remote_code and not trust_remote_code:
        raise AdapterError(
            f"the adapter asks for code to be run that lies beside its base "
            f"`{recipe.base.name_or_path}` (`trust_remote_code`)",
            "if you trust whoever wrote both, say so with `--trust-remote-code`",
        )
    if (template := found.folder / CHAT_TEMPLATE).is_file():  # the base's own may have changed
        recipe = recipe.with_(base=recipe.base.with_(chat_template=str(template)))
    return found.folder, record, recipe


def load_proven(
    folder: Path, recipe: Recipe, base: OpenedBase, record: Record, accelerator: Accelerator
) -> tuple[nn.Module, float]:
    """A trained model that answers the record's probes, and the largest difference to them.

    Raises:
        AdapterError: it answers differently.
    """
    model = load_trained_model(folder, recipe, base, record.head, accelerator.device)
    with accelerator.autocast():
        return model, compare_probes(model, record.probes, tolerance(recipe.base))


def load_trained_model(
    folder: Path, recipe: Recipe, base: OpenedBase, head: Head, device: torch.device
) -> nn.Module:
    """The base's weights, with what the method trained put back from a folder."""
    set_seed(OTHER_SEED)
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    loaded = load_weights(base, head, dtype, device, dropout=None)
    model = recipe.method.load(loaded.model, folder, loaded.head)
    if head.pooling or head.auto_class != "AutoModel":  # whose pooler is read by nothing
        check_nothing_is_random(model, loaded.random)
    load_added_tokens(model, folder, base.added_ids)
    return model.to(device).eval()
