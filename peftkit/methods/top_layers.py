"""Top layers: only the last blocks of the base are trained (Lee et al. 2019, "What Would Elsa Do?
Freezing Layers During Transformer Fine-Tuning", arXiv:1911.03090).

    y = C g(f(x))        f: embeddings and lower blocks, frozen; g: the last k blocks and the norm
                         or pooler above them; C: the head

The paper finds a fourth of the layers enough for 90 % of full fine-tuning's quality. The learning
rate is that of full fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.bases.base import Base
from peftkit.methods.method import Layout
from peftkit.methods.stored import _StoredAsTensors
from peftkit.tasks.task import Task

if TYPE_CHECKING:
    from torch import nn


class TopLayers(_StoredAsTensors):
    """Trains the last k transformer blocks, all of the base that comes after them, and the head."""

    trains_base_weights: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    k: int = Field(default=2, ge=1)
    """Blocks that are trained, counted from the last one; in an encoder-decoder, of the decoder."""

    def supports(self, task: Task, base: Base) -> str | None:
        from peftkit.methods.full_fine_tuning import needs_plain_weights

        return needs_plain_weights(self.kind(), base)

    def trained_names(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        from peftkit.errors import MethodError
        from peftkit.methods.trained_layout import parameters_of

        name, blocks = last_blocks(model)
        if self.k > len(blocks):
            raise MethodError(
                f"`method.k` is {self.k}, but {type(model).__name__} has {len(blocks)} blocks",
                "FullFineTuning trains all of them",
            )
        top = [f"{name}.{index}" for index in range(len(blocks) - self.k, len(blocks))]
        return parameters_of(model, (*top, *modules_after(model, name), *head))


def last_blocks(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """Name and blocks of the model's last stack of transformer blocks.

    Raises:
        MethodError: there is no such stack.
    """
    from torch import nn

    from peftkit.errors import MethodError

    config: Any = model.config
    depths = {config.num_hidden_layers, getattr(config, "num_decoder_layers", None)}
    stacks = [
        (name, module)
        for name, module in model.named_modules()
        if isinstance(module, nn.ModuleList) and len(module) in depths
    ]
    if not stacks:
        raise MethodError(
            f"{type(model).__name__} has no list of {config.num_hidden_layers} blocks, so its top "
            "layers are unknown",
            "use LoRA with `target_modules` that name them",
        )
    return stacks[-1]


def modules_after(model: nn.Module, name: str) -> list[str]:
    """Modules that stand after one of the trunk's modules, but for the head: final norm, pooler."""
    path = name.split(".")
    found = []
    for depth in range(1, len(path)):
        parent = ".".join(path[:depth])
        children = [child for child, _ in model.get_submodule(parent).named_children()]
        after = children[children.index(path[depth]) + 1 :]
        found += [f"{parent}.{child}" for child in after]
    return found
