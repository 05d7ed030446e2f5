"""Full fine-tuning: every weight is trained (Howard & Ruder 2018, arXiv:1801.06146).

    W <- W - lr * update(dL/dW)        for all W, in float32

The baseline for parameter-efficient methods, trained by the same loop.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, cast

from peftkit.bases.base import Base
from peftkit.methods.method import Layout, Method
from peftkit.methods.reasons import quantized_refusal

if TYPE_CHECKING:
    from torch import Tensor, nn

    from peftkit.bases.loaded_model import LoadedModel
    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head

WEIGHTS = "model.safetensors"


class FullFineTuning(Method):
    """Trains all weights of the model and saves a whole model folder."""

    trains_base_weights: ClassVar[bool] = True
    mergeable: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    def refuses(self, head: Head, base: Base) -> str | None:
        return quantized_refusal(self.kind(), base)

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        return model.requires_grad_(True)

    def save(self, model: nn.Module, folder: Path) -> None:
        # one file, for one digest in the record; the tensors keep their names in this model
        cast(Any, model).save_pretrained(
            folder, max_shard_size="1000GB", save_original_format=False
        )

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        _load_whole(model, folder)
        return model.requires_grad_(False)

    def refuses_rewinding(self) -> str | None:
        return None

    def neutral_values(
        self, model: nn.Module, load_base: Callable[[], LoadedModel]
    ) -> Mapping[str, Tensor | float]:
        from peftkit.methods.rewinding import base_starts

        return base_starts(load_base(), [name for name, _ in model.named_parameters()])

    def adapter_tensors(self, model: nn.Module) -> tuple[str, Mapping[str, Tensor]]:
        return WEIGHTS, model.state_dict()

    def restore(self, model: nn.Module, folder: Path) -> None:
        from peftkit.methods.trained_layout import compare_present

        if next(model.parameters()).is_meta:  # the file holds tied weights only once
            compare_present(
                folder / WEIGHTS, {n: tuple(p.shape) for n, p in model.state_dict().items()}
            )
        else:
            _load_whole(model, folder)

    def merge(self, model: nn.Module) -> nn.Module:
        return model


def _load_whole(model: nn.Module, folder: Path) -> None:
    """Loads all weights of a model folder into a model.

    Raises:
        AdapterError: the weight file is missing or does not fit the model.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_model

    from peftkit.errors import AdapterError

    try:
        load_model(model, folder / WEIGHTS)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise AdapterError(
            f"`{folder / WEIGHTS}` does not fit the model: {error}",
            "give a model of this architecture, saved by a run of FullFineTuning",
        ) from error
