"""Top layers: only the last blocks of the base are trained (Lee et al. 2019, "What Would Elsa Do?
Freezing Layers During Transformer Fine-Tuning", arXiv:1911.03090).

    y = C g(f(x))        f: embeddings and lower blocks, frozen; g: the last k blocks and the norm
                         or pooler above them; C: the head

The paper finds that a fourth of the layers reaches 90 % of full fine-tuning's quality. Use the
learning rate of full fine-tuning.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from peftkit.bases.base import Base
from peftkit.methods.method import Layout
from peftkit.methods.reasons import quantized_refusal
from peftkit.methods.stored import StoredAsTensors
from peftkit.wording import plural

if TYPE_CHECKING:
    from torch import nn

    from peftkit.data.head import Head


class TopLayers(StoredAsTensors):
    """Trains the last k transformer blocks, all of the base that comes after them, and the head."""

    trains_base_weights: ClassVar[bool] = True
    layouts: ClassVar[tuple[Layout, ...]] = ("padded", "packed")

    k: int = Field(default=2, ge=1)
    """Number of blocks to train, counted from the last; in an encoder-decoder, the decoder's
    blocks."""

    def refuses(self, head: Head, base: Base) -> str | None:
        return quantized_refusal(self.kind(), base)

    def trained_names(self, model: nn.Module, head: tuple[str, ...]) -> list[str]:
        from peftkit.bases.architectures import stacks
        from peftkit.errors import MethodError
        from peftkit.methods.trained_layout import parameters_of

        block_lists = stacks(model)
        if not block_lists:
            raise MethodError(
                f"{type(model).__name__} has no list of blocks, so its top layers are unknown",
                "use LoRA, or FullFineTuning",
            )
        name, blocks = block_lists[-1]
        if self.k > len(blocks):
            raise MethodError(
                f"`method.k` is {self.k}, but {type(model).__name__} has "
                f"{plural(len(blocks), 'block')}",
                "FullFineTuning trains all of them",
            )
        top = [f"{name}.{index}" for index in range(len(blocks) - self.k, len(blocks))]
        above = modules_after(model, f"{name}.{len(blocks) - 1}")
        return list(dict.fromkeys(parameters_of(model, (*top, *above, *head))))


def modules_after(model: nn.Module, block: str) -> list[str]:
    """Returns names of modules that have weights and run only after a block, such as a final norm.

    Observes a forward pass on two tokens, since modules can run in another order than the code
    lists them. Leaves out the output layer of a language model.
    """
    import torch

    from peftkit.errors import MethodError

    base: Any = model
    names = {module: name for name, module in model.named_modules()}
    order: list[str] = []
    handles = [
        module.register_forward_pre_hook(lambda module, _: order.append(names[module]))
        for module in names
    ]
    end = base.config.eos_token_id  # some classifiers read at its position
    known = isinstance(end, int) and end < len(base.get_input_embeddings().weight)
    tokens = torch.full((1, 2), end if known else 0, device=base.device)
    inputs = {"input_ids": tokens}
    if base.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = tokens
    training = model.training
    try:
        with torch.no_grad():
            model.eval()(**inputs)
    finally:
        model.train(training)
        for handle in handles:
            handle.remove()
    if block not in order:
        raise MethodError(
            f"{type(model).__name__} does not call its blocks, so what follows the last one is "
            "unknown",
            "use LoRA, or FullFineTuning",
        )
    last = max(index for index, name in enumerate(order) if name == block)
    before = set(order[: last + 1])
    after = dict.fromkeys(name for name in order[last:] if name not in before)
    output = base.get_output_embeddings()
    return [
        name
        for name in after
        if not name.startswith(f"{block}.")
        and model.get_submodule(name) is not output
        and any(True for _ in model.get_submodule(name).parameters(recurse=False))
    ]
