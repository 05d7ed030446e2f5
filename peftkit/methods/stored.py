"""Base classes of methods that save in PEFT's format, or save tensors under their own names.

Subclasses of `StoredByPeft` define only `inject`; subclasses of `StoredAsTensors` define only
`trained_names`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from peftkit.methods.method import Method
from peftkit.methods.reasons import rewinding_refusal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftkit.bases.loaded_model import LoadedModel


class StoredByPeft(Method):
    """A method whose `inject` returns a `peft.PeftModel`; plain PEFT can load its adapters."""

    abstract: ClassVar[bool] = True

    def save(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.peft.layout import save_peft

        save_peft(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.peft.layout import load_peft

        return load_peft(model, folder)

    def refuses_rewinding(self) -> str | None:
        return None

    def neutral_values(
        self, model: nn.Module, load_base: Callable[[], LoadedModel]
    ) -> Mapping[str, Tensor | float]:
        from peftkit.methods.rewinding import peft_starts

        return peft_starts(model)

    def adapter_tensors(self, model: nn.Module) -> tuple[str, Mapping[str, Tensor]]:
        from peftkit.methods.peft.layout import WEIGHTS, saved_tensors

        return WEIGHTS, saved_tensors(model)

    def restore(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.peft.layout import restore_peft

        restore_peft(model, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        from peftkit.methods.peft.merging import merge_peft

        return merge_peft(model)


class StoredVirtualTokens(StoredByPeft):
    """A PEFT method with virtual tokens before the text; results are correct in padded batches."""

    abstract: ClassVar[bool] = True

    num_virtual_tokens: int

    @property
    def position_offset(self) -> int:
        return self.num_virtual_tokens

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.virtual_tokens import load_virtual

        return load_virtual(model, folder)

    def refuses_rewinding(self) -> str | None:
        return rewinding_refusal(self.kind())

    def restore(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.virtual_tokens import restore_virtual

        restore_virtual(model, folder)


class StoredAsTensors(Method):
    """A method that adds nothing to the model; it saves trained tensors under their own names."""

    abstract: ClassVar[bool] = True

    mergeable = True

    def trained_names(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        """Returns names of the parameters that this method trains in a model.

        Raises:
            MethodError: the model has no such parameters.
        """
        raise NotImplementedError

    def inject(self, model: nn.Module, encoded: object, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.trained_layout import float_norms

        trained = set(self.trained_names(model, head))
        float_norms(model, trained)
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in trained)
        return model

    def save(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.trained_layout import save_trained

        save_trained(model, folder)

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        from peftkit.methods.trained_layout import load_trained

        return load_trained(model, folder, self.trained_names(model, head))

    def refuses_rewinding(self) -> str | None:
        return None

    def neutral_values(
        self, model: nn.Module, load_base: Callable[[], LoadedModel]
    ) -> Mapping[str, Tensor | float]:
        from peftkit.methods.rewinding import base_starts

        base = load_base()
        return base_starts(base, self.trained_names(model, base.head))

    def adapter_tensors(self, model: nn.Module) -> tuple[str, Mapping[str, Tensor]]:
        from peftkit.methods.trained_layout import WEIGHTS

        return WEIGHTS, dict(model.named_parameters())

    def restore(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.trained_layout import restore_trained

        restore_trained(model, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        return model
