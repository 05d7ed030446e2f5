"""Method and task for recipes of other programs' adapters.

The method loads an adapter, but does not train it. The task stands in for a task that peftkit
lacks, and has no answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn

from pydantic import field_validator

from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.inspection.headers import read_header
from peftkit.adapters.published.detection import check_num_layers, layer_mismatch, names_in
from peftkit.adapters.published.overlapping_keys import check_ranks
from peftkit.bases.base import Base
from peftkit.errors import AdapterError, quoted
from peftkit.methods.peft.adapter_config import AdapterConfig, read_config
from peftkit.methods.peft.tuners import NOT_SUPPORTED
from peftkit.methods.peft_method import PeftMethod
from peftkit.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.head import Head
    from peftkit.data.rows import Table

NOT_LOADED = {
    kind: NOT_SUPPORTED[kind]
    for kind in (
        "CARTRIDGE", "CPT", "LILY", "MULTITASK_PROMPT_TUNING", "POLY", "SHADOW", "XLORA",
    )
}  # fmt: skip
"""PEFT type that peftkit does not load -> the reason. Other types in `NOT_SUPPORTED` can be loaded,
but not trained."""


class _SavedByPeft(PeftMethod):
    """Method of an adapter that another program trained with PEFT."""

    settings: dict[str, object] = {}
    """Field of adapter_config.json -> value that replaces the adapter's own."""

    @field_validator("config")
    @classmethod
    def _check_config(cls, value: dict[str, object]) -> dict[str, object]:
        return value

    def refuses(self, head: Head, base: Base) -> str | None:
        return None if base.quantization == "none" else super().refuses(head, base)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        import peftkit.methods.bottleneck_tuner  # noqa: F401  # registers bottleneck adapters with PEFT
        from peftkit.methods.peft.layout import load_peft
        from peftkit.methods.virtual_tokens import load_virtual

        check_num_layers(AdapterConfig(self.config), model)
        load = load_virtual if self.position_offset else load_peft
        try:
            return load(model, folder, self.settings)
        except AdapterError as error:
            check_ranks(self._settings_of(folder), read_header(folder / WEIGHTS))
            mismatch = layer_mismatch(names_in(folder / WEIGHTS), model)
            raise AdapterError(f"{mismatch}{error.message}", error.hint) from error

    def _settings_of(self, folder: Path) -> AdapterConfig:
        return AdapterConfig({**read_config(folder), **self.settings})


class _NoTask(Task):
    """Task of an adapter that can be loaded, but has no answers to texts."""

    task_type: ClassVar[str] = ""
    scores: ClassVar[tuple[str, ...]] = ()

    reason: str
    """Why the task has no answers."""

    @classmethod
    def kind(cls) -> str:
        return "none of peftkit's"

    def as_input(self, value: Any) -> dict[str, object]:
        self._refuse()

    def read_input(self, values: Mapping[str, object], table: Table) -> dict[str, object] | str:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise AdapterError(
            f"this adapter has no answers to texts: {self.reason}",
            "use `peftkit.load(...).model` for the model's outputs",
        )


def check_nothing_is_random(model: Any, random: Iterable[str]) -> None:
    """Raises AdapterError if neither the base nor the adapter has the weights of a head.

    Args:
        model: the base with its adapter; only a `peft.PeftModel` is checked.
        random: names of parameters without weights in the base's checkpoint.
    """
    from peft import PeftModel
    from peft.utils import ModulesToSaveWrapper

    if not isinstance(model, PeftModel):  # loading compared all trained tensors
        return
    base: Any = model.get_base_model()
    saved = [f"{n}." for n, m in base.named_modules() if isinstance(m, ModulesToSaveWrapper)]
    if left := sorted({n.rpartition(".")[0] for n in random if not n.startswith(tuple(saved))}):
        raise AdapterError(
            f"the answers depend on {quoted(left, 3)}, and neither the base nor the adapter has "
            "weights for it",
            "give the base it was trained on with `--base`",
        )
