"""The contract that every fine-tuning method fulfils.

A method puts its parameters into a model (`inject`), leaves every other parameter frozen, and
writes and reads exactly what it trained (`save`, `load`). The training loop, the scores and the
receipt are the same for all methods; full fine-tuning is a method too, so that the baseline
runs the same code.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from peftkit.bases.base import Base
from peftkit.parts.part import OpenPart

if TYPE_CHECKING:
    import torch
    from torch import nn

    from peftkit.bases.loaded_model import LoadedModel
    from peftkit.data.encoded import Encoded
    from peftkit.data.head import Head
    from peftkit.methods.fast_layers import FastLayer

Layout = Literal["padded", "packed", "shared"]
"""`padded`: one example per row, padded to one width. `packed`: many examples in one row. `shared`:
as `packed`, but the tokens with which all examples of a row begin occur only once. A method for
`packed` batches also works in `shared` batches."""


class Method(OpenPart):
    """Base class of all methods. Recipes record a subclass in another package as `module:Class`."""

    renamed_hooks: ClassVar[Mapping[str, str]] = {
        "supports": "`refuses(head, base)`",
        "supports_checkpointing": "`refuses_checkpointing`",
        "supports_steps": "`refuses_steps`",
        "supports_merging": "`refuses_merging`",
        "supports_start": "`refuses_start`",
        "supports_rewinding": "`refuses_rewinding`",
        "stand_in": "`cost_proxy`",
        "settled_after": "`first_selectable_step`",
        "starts": "`neutral_values`",
        "saved": "`adapter_tensors`",
    }
    trains_base_weights: ClassVar[bool] = False
    """Whether the method trains weight matrices of the base, which is then loaded in float32."""
    mergeable: ClassVar[bool] = False
    """Whether the trained change can be folded into the base's weights exactly."""
    layouts: ClassVar[tuple[Layout, ...]] = ("padded",)
    """Batch layouts under which the method computes the right loss."""

    @property
    def position_offset(self) -> int:
        """Number of virtual tokens before the text; they shorten its maximum length."""
        return 0

    def refuses(self, head: Head, base: Base) -> str | None:
        """Returns why this method cannot work with this head or base; None if it can. Called when
        the recipe is made, and again when the base is opened and more is known.
        """
        return None

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        """Returns notes on this method in this model, which the user sees before training.

        Args:
            model: a model whose tensors have shapes but no values.
            head: as for `inject`.
        """
        return ()

    def refuses_checkpointing(self) -> str | None:
        """Returns why the backward pass cannot recompute activations; None if it can."""
        return None

    def refuses_steps(self, num_steps: int) -> str | None:
        """Returns why the method cannot train in `num_steps` optimizer steps; None if it can."""
        return None

    def refuses_merging(self, base: Base) -> str | None:
        """Returns why an adapter cannot be folded into the weights of this base; None if it can."""
        if self.mergeable:
            return None
        return f"{self.kind()} is not a change of the base's weights; keep the adapter, or use LoRA"

    def refuses_start(self) -> str | None:
        """Returns why training cannot continue from a saved adapter; None if it can."""
        if type(self).restore is Method.restore:
            return f"{self.kind()} does not define how to continue from a saved adapter"
        return None

    def refuses_rewinding(self) -> str | None:
        """Returns why a trained adapter cannot be applied at a smaller strength; None if it can."""
        return f"{self.kind()} does not define a smaller strength of a trained adapter"

    def instead(self) -> str:
        """Returns the hint that an error gives if this method does not fit a model."""
        return "use LoRA"

    def cost_proxy(self) -> Method:
        """Returns the method that `peftkit plan` runs instead of this one. It needs as much memory
        and time to train. Its injection reads no data and no weights, since a plan has neither.
        """
        return self

    def in_every_block(self) -> Method:
        """Returns this method without its selection of blocks; returns it unchanged if it has no
        selection that can be removed. Used to plan on large bases.
        """
        return self

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        """Returns the model with only this method's parameters and the head trainable.

        The model may be on the meta device, where `peftkit check` counts parameters.

        Args:
            head: names of modules that every method trains and saves whole.

        Raises:
            MethodError: the model lacks what the method needs.
        """
        raise NotImplementedError

    def fast(self, model: nn.Module) -> Sequence[FastLayer]:
        """Returns the model's faster layers, which compute the same as the method's plain layers.
        The self-check compares both.
        """
        return ()

    def learning_rate_scales(self, model: nn.Module) -> Mapping[str, float]:
        """Returns parameter name -> factor on its learning rate. Missing names have factor 1."""
        return {}

    def undecayed(self, model: nn.Module) -> Collection[str]:
        """Returns names of matrices that get no weight decay, since their neutral value is not
        zero. Vectors, such as biases, never get weight decay.
        """
        return ()

    def first_selectable_step(self, num_steps: int) -> int:
        """Returns the first optimizer step whose weights can be chosen as the best."""
        return 0

    def after_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Updates what the method itself controls, such as ranks, after an optimizer step.

        Called before the gradients of that step are cleared; `step` counts from 1.
        """

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """Returns a scalar to add to the step's mean loss; None for no penalty."""
        return None

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the trained tensors into an existing folder."""
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        """Returns a freshly loaded model with the saved tensors in it, frozen for inference.

        Args:
            head: as for `inject`.

        Raises:
            AdapterError: tensors are missing, unexpected or of other shapes.
        """
        raise NotImplementedError

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Loads saved tensors into a model that `inject` returned, to train them further.

        On the meta device, only compares names and shapes.

        Raises:
            AdapterError: tensors are missing, unexpected or of other shapes, or the adapter has
                other settings than this method.
        """
        raise NotImplementedError

    def neutral_values(
        self, model: nn.Module, load_base: Callable[[], LoadedModel]
    ) -> Mapping[str, torch.Tensor | float]:
        """Returns parameter name -> neutral value: the tensor or number at which the adapter has no
        effect. Used for rewinding; parameters that are missing in the result keep their trained
        values.

        Args:
            model: a model that `load` returned.
            load_base: loads the base as it was before training.
        """
        raise NotImplementedError

    def adapter_tensors(self, model: nn.Module) -> tuple[str, Mapping[str, torch.Tensor]]:
        """Returns the name of the file that `save` writes, and a loaded model's tensors under their
        names in that file.
        """
        raise NotImplementedError

    def merge(self, model: nn.Module) -> nn.Module:
        """Returns the base with the adapter folded into its weights.

        Args:
            model: a model that `load` returned; its base is not quantized.
        """
        raise NotImplementedError


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Returns all trainable parameters of a model by name."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
