"""The contract of a method.

A method puts its parameters into a model (`inject`), leaves every other parameter frozen, and
writes and reads exactly what it trained (`save`, `load`). The training loop, the scores and the
receipt are the same for all methods; full fine-tuning is a method too, so that the baseline
runs the identical code.
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
as `packed`, but first tokens that all examples share occur once. `packed` implies `shared`."""


class Method(OpenPart):
    """A method of a recipe. Subclass it anywhere; the subclass is recorded as `module:Class`."""

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
    """Whether weight matrices of the base are trained; the base is then loaded in float32."""
    mergeable: ClassVar[bool] = False
    """Whether the trained change can be folded into the base's weights exactly."""
    layouts: ClassVar[tuple[Layout, ...]] = ("padded",)
    """Batch layouts under which the method computes the right loss."""

    @property
    def position_offset(self) -> int:
        """Number of virtual tokens before the text, which leave less room for it."""
        return 0

    def refuses(self, head: Head, base: Base) -> str | None:
        """None, or why this method cannot work with this head or base. Called when the recipe is
        made, with what is known then, and again when the base is opened.
        """
        return None

    def notes(self, model: nn.Module, head: tuple[str, ...]) -> Sequence[str]:
        """Returns notes for the user on this method in this model, before training.

        Args:
            model: its tensors have shapes but no values.
            head: as for `inject`.
        """
        return ()

    def refuses_checkpointing(self) -> str | None:
        """None, or why activations cannot be recomputed in the backward pass of this method."""
        return None

    def refuses_steps(self, num_steps: int) -> str | None:
        """None, or why the method cannot work in this number of optimizer steps."""
        return None

    def refuses_merging(self, base: Base) -> str | None:
        """None, or why an adapter trained on this base cannot be folded into its weights."""
        if self.mergeable:
            return None
        return f"{self.kind()} is not a change of the base's weights; keep the adapter, or use LoRA"

    def refuses_start(self) -> str | None:
        """None, or why training with this method cannot continue from a saved adapter."""
        if type(self).restore is Method.restore:
            return f"{self.kind()} does not define how to continue from a saved adapter"
        return None

    def refuses_rewinding(self) -> str | None:
        """None, or why a trained adapter cannot be applied at a smaller strength."""
        return f"{self.kind()} does not define a smaller strength of a trained adapter"

    def instead(self) -> str:
        """Returns the hint for a model that this method does not fit."""
        return "use LoRA"

    def cost_proxy(self) -> Method:
        """Returns the method that `peftkit plan` runs in place of this one: it costs as much memory
        and time to train, and its injection reads no data and no weights, which are random there.
        """
        return self

    def in_every_block(self) -> Method:
        """Returns this method without its selection of blocks, for planning on large bases;
        unchanged if nothing can be removed.
        """
        return self

    def inject(self, model: nn.Module, encoded: Encoded, head: tuple[str, ...]) -> nn.Module:
        """Returns the model with this method's parameters and the head trainable, the rest frozen.

        Works on the meta device too, where `peftkit check` counts parameters.

        Args:
            head: names of modules that every method trains and saves whole.

        Raises:
            MethodError: the model lacks what the method needs.
        """
        raise NotImplementedError

    def fast(self, model: nn.Module) -> Sequence[FastLayer]:
        """Returns layers of the model that compute the same as the method's plain layers, but
        faster; the self-check compares both.
        """
        return ()

    def learning_rate_scales(self, model: nn.Module) -> Mapping[str, float]:
        """Name of a trainable parameter -> factor on its learning rate; by default 1."""
        return {}

    def undecayed(self, model: nn.Module) -> Collection[str]:
        """Names of matrices that get no weight decay, since their neutral value is not zero.
        Vectors, such as biases, never get any.
        """
        return ()

    def first_selectable_step(self, num_steps: int) -> int:
        """The first optimizer step whose weights may be chosen as the best."""
        return 0

    def after_step(self, model: nn.Module, step: int, num_steps: int) -> None:
        """Called after optimizer step `step` (from 1) of `num_steps`, before its gradients are
        cleared.
        """

    def penalty(self, model: nn.Module) -> torch.Tensor | None:
        """A scalar to add to the step's mean loss, or None."""
        return None

    def save(self, model: nn.Module, folder: Path) -> None:
        """Writes the trained tensors into an existing folder."""
        raise NotImplementedError

    def load(self, model: nn.Module, folder: Path, head: tuple[str, ...]) -> nn.Module:
        """Loads what `save` wrote into a freshly loaded model, and freezes it for inference.

        Args:
            head: as for `inject`.

        Raises:
            AdapterError: tensors are missing, unexpected or of other shapes.
        """
        raise NotImplementedError

    def restore(self, model: nn.Module, folder: Path) -> None:
        """Loads what `save` wrote into a model from `inject`, to train it further.

        Works on the meta device too, where only names and shapes are compared.

        Raises:
            AdapterError: tensors are missing, unexpected or of other shapes, or the adapter has
                other settings than this method.
        """
        raise NotImplementedError

    def neutral_values(
        self, model: nn.Module, load_base: Callable[[], LoadedModel]
    ) -> Mapping[str, torch.Tensor | float]:
        """Name of a parameter -> its value, a tensor or one number, at which the adapter has no
        effect. Used for rewinding; parameters not named keep their trained values.

        Args:
            model: as `load` returns it.
            load_base: loads the base as it was before training.
        """
        raise NotImplementedError

    def adapter_tensors(self, model: nn.Module) -> tuple[str, Mapping[str, torch.Tensor]]:
        """Returns the name of the file that `save` writes, and the current values of its tensors in
        a loaded model.
        """
        raise NotImplementedError

    def merge(self, model: nn.Module) -> nn.Module:
        """Returns the base with the adapter folded into its weights, no longer separable.

        Args:
            model: as `load` returns it, on a base that is not quantized.
        """
        raise NotImplementedError


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Name -> parameter, for all trainable parameters of a model."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}
