"""BitFit: Simple Parameter-efficient Fine-tuning for Transformer-based Masked Language-models
(Ben Zaken et al. 2021, arXiv:2106.10199).

    h = W x + b        W frozen, b trained, in every layer of the base

The paper trains BERT with a learning rate of 1e-4 to 1e-3. Most decoders since Llama have no
biases at all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from peftkit.methods.method import Layout
from peftkit.methods.stored import StoredAsTensors

if TYPE_CHECKING:
    from torch import nn


class BitFit(StoredAsTensors):
    """Trains the head and every bias of the base, including the norms' biases."""

    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    def trained_names(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        from peftkit.errors import MethodError
        from peftkit.methods.trained_layout import parameters_of

        in_head = parameters_of(model, head)
        names = (name for name, _ in model.named_parameters() if name not in set(in_head))
        biases = [name for name in names if name.rsplit(".", 1)[-1] == "bias"]
        if not biases:
            raise MethodError(
                f"{type(model).__name__} has no biases to train",
                "use LayerNormTuning, which trains about as few parameters, or LoRA",
            )
        return [*biases, *in_head]
