"""Loads an adapter on its base, after checking its files, its base and its answers."""

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
from peftkit.adapters.hub import local_path
from peftkit.adapters.inspection.inspected import Inspected
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.probes import compare_probes, tolerance
from peftkit.adapters.published.recipe import complete_from_base, published_adapter
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
"""Random seed of the weights before loading. Training uses another seed, so a head that was not
loaded changes the answers."""


@dataclass(frozen=True)
class LoadedAdapter:
    """An adapter loaded on its base, ready to answer inputs."""

    model: nn.Module
    base: OpenedBase
    recipe: Recipe
    record: Record
    accelerator: Accelerator

    @property
    def tokenizer(self) -> Any:
        """The base's tokenizer, with the chat template used in training."""
        return self.base.tokenizer

    @quietly()
    def predict(self, inputs: Sequence[Any], say: Say = silent) -> Sequence[Answer]:
        """Answers each input: with a class or a number, or with a reply if the model writes text.

        Args:
            inputs: texts or lists of messages for a model that writes text; for other models, texts
                or mappings with `text` and `text_pair`.
            say: called with lines about progress if the call takes long.

        Raises:
            PeftkitError: the task cannot answer an input.
        """
        if isinstance(inputs, str | bytes | Mapping):
            raise RecipeError(
                f"`inputs` is one {type(inputs).__name__}, not a list of inputs",
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
        """Writes a text for each input.

        Args:
            model: the model that writes; None for the adapter's model.
            progress: called with the number of inputs answered since the last call.
            settings: options of transformers' `generate` that override the head's `generation`.
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
        """Loads the base without the adapter, as it was before training."""
        head, device = self.record.head, self.accelerator.device
        dtype = weights_dtype(self.recipe.base, self.recipe.method.trains_base_weights)
        return load_weights(self.base, head, dtype, device, dropout=None).model.eval()

    def _encode(self, inputs: Sequence[Any]) -> Examples:
        task = self.recipe.task
        try:
            json.dumps(list(inputs), ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            raise RecipeError("`inputs` holds text that is not UTF-8", "convert it") from error
        except TypeError as error:
            raise RecipeError(
                f"an input is neither a text, nor a list or mapping of texts: {error}",
                "give each input as a string, or as a list or dict of strings",
            ) from error
        values = [task.as_input(value) for value in inputs]
        rows = [Row(number, row) for number, row in enumerate(values, start=1)]
        encoded = task.encode_inputs(rows, self.base, self.record.head)
        check_ids(self.base, encoded.input_ids)
        return encoded


@dataclass(frozen=True)
class OpenedAdapter:
    """An adapter whose bytes passed inspection, and its base; no weights are in memory yet."""

    folder: Path
    record: Record
    """What peftkit.json holds; filled in from the base for other programs' adapters."""
    recipe: Recipe
    base: OpenedBase

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the base's weights in training; if unknown, their dtype when loaded here."""
        if self.record.base:
            return getattr(torch, self.record.base.dtype)  # type: ignore[no-any-return]
        return weights_dtype(self.recipe.base, self.recipe.method.trains_base_weights)

    @property
    def peft_config(self) -> AdapterConfig:
        """Content of adapter_config.json with the user's settings; empty if there is no file."""
        return read_config(self.folder) if self.record.base else self.record.peft_config

    def check_base(self) -> None:
        """Raises AdapterError if the adapter's record names a base and the given base differs."""
        if self.record.base:
            check_base(self.base, self.record)


def open_adapter(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
) -> OpenedAdapter:
    """Opens an adapter saved by peftkit, PEFT or AdapterHub, and its base; loads no weights.

    Args:
        path: a run folder, an adapter folder, or a Hub id (`org/name`, `org/name@revision`).
        base: the base's location; empty for the base that the adapter names.
        trust_remote_code: whether code stored with the base may run, if the recipe asks for it.
        settings: values of fields missing in adapter_config.json.

    Raises:
        AdapterError: `path` holds no adapter, or the adapter was changed or is not safe to load.
        RecipeError: `settings` has a field that the adapter's type lacks, or contradicts the
            adapter_config.json.
    """
    inspected = inspect(path := local_path(path), settings)
    inspected.raise_if_wrong()
    return open_inspected(inspected, path, base, trust_remote_code)


def open_inspected(
    inspected: Inspected, path: str, base: str, trust_remote_code: bool
) -> OpenedAdapter:
    """Opens an adapter whose bytes passed inspection; see `open_adapter`."""
    folder, record, recipe = _read(inspected, path, base, trust_remote_code)
    opened = open_base(recipe.base, recipe.method.position_offset, recipe.task.one_output)
    recipe = recipe.with_(base=opened.spec)
    if not record.base:
        record, recipe, opened = complete_from_base(inspected, record, recipe, opened)
    return OpenedAdapter(folder, record, recipe, opened)


def load(
    path: str,
    base: str = "",
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
) -> LoadedAdapter:
    """Loads an adapter on its base; takes the arguments of `open_adapter`.

    Raises:
        AdapterError: a file was changed, or the base or the answers differ from the record.
    """
    opened = open_adapter(path, base, trust_remote_code, settings)
    opened.check_base()
    recipe, record = opened.recipe, opened.record
    accelerator = open_accelerator(recipe.base)
    model, _ = load_proven(opened.folder, recipe, opened.base, record, accelerator)
    return LoadedAdapter(model, opened.base, recipe, record, accelerator)


def _read(
    inspected: Inspected, path: str, base: str, trust_remote_code: bool
) -> tuple[Path, Record, Recipe]:
    """Returns the adapter's folder, its record, and the recipe that loads it."""
    if inspected.record is None:
        return inspected.folder, *published_adapter(inspected, base)
    record = Record.read(inspected.folder)
    recipe = recipe_of(Path(path).expanduser(), record.recipe.text)
    if base:
        recipe = recipe.with_(base=recipe.base.with_(name_or_path=base, revision=""))
    if recipe.base.trust_remote_code and not trust_remote_code:
        raise AdapterError(
            "the adapter needs code stored with its base "
            f"`{recipe.base.name_or_path}` (`trust_remote_code`)",
            "if you trust the authors of adapter and base, use `--trust-remote-code`",
        )
    if (template := inspected.folder / CHAT_TEMPLATE).is_file():  # the base's may differ now
        recipe = recipe.with_(base=recipe.base.with_(chat_template=str(template)))
    return inspected.folder, record, recipe


def load_proven(
    folder: Path, recipe: Recipe, base: OpenedBase, record: Record, accelerator: Accelerator
) -> tuple[nn.Module, float]:
    """Loads a trained model and compares it with the record's probes.

    Returns:
        The model, and the largest difference between its answers and the recorded answers.

    Raises:
        AdapterError: the answers differ by more than the tolerance.
    """
    model = load_trained_model(folder, recipe, base, record.head, accelerator.device)
    with accelerator.autocast():
        return model, compare_probes(model, record.probes, tolerance(recipe.base))


def load_trained_model(
    folder: Path, recipe: Recipe, base: OpenedBase, head: Head, device: torch.device
) -> nn.Module:
    """Loads the base, and the trained weights from a folder."""
    set_seed(OTHER_SEED)
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    loaded = load_weights(base, head, dtype, device, dropout=None)
    model = recipe.method.load(loaded.model, folder, loaded.head)
    if head.pooling or head.auto_class != "AutoModel":  # nothing reads AutoModel's pooler
        check_nothing_is_random(model, loaded.random)
    load_added_tokens(model, folder, base.added_ids)
    return model.to(device).eval()
