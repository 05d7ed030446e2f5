"""Runs a model on a batch and computes only those outputs that are read.

- In a language model, the output layer reads only the places whose next token is learned or scored
  (`output_layer.py`).
- In an encoder's classifier in the packed layout, the last block outputs only the first token of
  each example; a block built like BERT's computes queries and attention only for it, too
  (`first_tokens`).

Hooks on the model's modules do this; no code of the model is changed. What they assume of an
architecture is checked against unpadded single examples (`self_check`), or at the first batch.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from peftkit.bases.architectures import stacks
from peftkit.bases.pooled import reads_every_token
from peftkit.data.head import Output
from peftkit.methods.method import Layout
from peftkit.tasks.losses import Loss
from peftkit.training.forward.collating import Batch
from peftkit.training.forward.document_attention import attention_configs, packed_attention
from peftkit.training.forward.first_tokens import keep_first_tokens
from peftkit.training.forward.frozen_trunk import FrozenTrunk
from peftkit.training.forward.output_layer import OutputLayer

Perturbation = Callable[[Tensor, Tensor], Tensor]
"""(embeddings (rows, width, d), example_of (rows, width)) -> the embeddings that the blocks get.
`example_of` counts the batch's examples from 0; -1 is padding."""


class ForwardPass:
    """Runs a model on batches of one layout, and reads its outputs.

    Args:
        output: kind of the head's outputs.
        layout: of the batches.
        only_read: False to compute all outputs and then select, which every architecture supports.
    """

    def __init__(
        self, model: nn.Module, output: Output, layout: Layout = "padded", only_read: bool = True
    ) -> None:
        base: Any = base_of(model)
        self.model, self.output, self.layout, self.only_read = model, output, layout, only_read
        self.per_token = output != "pooled"
        self.every_token = self.per_token or reads_every_token(base)
        """Whether each token's last hidden state may be read, not only one per example."""
        self.output_layer = OutputLayer.of(base) if self.per_token and only_read else None
        self.score: nn.Module | None = getattr(base, "score", None)
        self.last_block = [blocks[-1] for _, blocks in stacks(base)][-1:]
        self.first_position = _first_position(base)
        self.configs = attention_configs(model)
        self.in_chunks: bool | None = None if self.output_layer is not None else False
        """Whether the output layer can be run by itself; None until the first batch shows it."""

    def in_layout(self, layout: Layout) -> ForwardPass:
        """The same for batches of another layout."""
        other = copy.copy(self)
        other.layout = layout
        return other

    def rebuilt(self) -> ForwardPass:
        """The same after modules of the model were replaced."""
        return ForwardPass(self.model, self.output, self.layout, self.only_read)

    @property
    def packed(self) -> bool:
        """Whether batches are packed in one row."""
        return self.layout != "padded"

    @contextlib.contextmanager
    def hooked(
        self,
        batch: Batch,
        trunk: FrozenTrunk | None = None,
        perturbation: Perturbation | None = None,
    ) -> Iterator[HookedBatch]:
        """Inside, the model can be run on the batch and gradients computed; activations that are
        recomputed need the hooks too.
        """
        with contextlib.ExitStack() as stack:
            whole = batch
            if trunk is not None:
                batch = trunk.remaining(whole)
            run = HookedBatch(self, batch)
            if self.output_layer is not None:
                _hook(stack, self.output_layer.module, run.capture)
            elif self.packed and not self.per_token and self.score is not None:
                _hook(stack, self.score, run.capture)
            elif batch is not whole:
                pass  # the last block is left out
            elif self.packed and not self.every_token and self.last_block:
                num_tokens = batch.input_ids.shape[1]
                keep_first_tokens(stack, self.last_block[0], batch.starts, num_tokens)
            if self.packed:
                stack.enter_context(packed_attention(self.configs))
            if trunk is not None:  # its hook comes after those above
                stack.enter_context(trunk.attached(whole))
            if perturbation is not None:
                _perturb(stack, self.model, batch, perturbation)
            yield run


@dataclass
class HookedBatch:
    """A batch, and a model with its hooks set for it."""

    forward: ForwardPass
    batch: Batch
    _hidden: Tensor | None = None
    """The output layer's input at the places that are read."""
    _first: Tensor | None = None
    """The output layer's input at the first place of each row."""
    _running: bool = field(default=False)

    def loss(self, loss: Loss) -> Tensor:
        """The batch's total of losses, a scalar; differentiable."""
        batch, layer, read = self.batch, self.forward.output_layer, self._read()
        if not self.forward.in_chunks:
            return loss.total(loss.values(read, batch.targets), batch)
        assert layer is not None
        if loss.linear:
            return layer.weighted_sum(read, batch.targets, batch.weights, loss.values)
        return loss.total(layer.values(read, batch.targets, loss.values), batch)

    def outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive outputs, (n, classes or vocabulary), and which of the batch's they are."""
        read, layer = self._read(), self.forward.output_layer
        if not self.forward.in_chunks:
            yield slice(0, len(read)), read
            return
        assert layer is not None
        for start in range(0, len(read), layer.chunk_size):
            part = slice(start, min(start + layer.chunk_size, len(read)))
            yield part, layer.logits(read[part])

    def capture(self, _: nn.Module, args: tuple[Tensor, ...]) -> Any:
        """A hook before the output layer: keeps the hidden states that are read, and passes on
        only those that the layer must see.
        """
        if not self._running:
            return None
        batch, forward, hidden = self.batch, self.forward, args[0]
        at = batch.read_at if forward.per_token else batch.ends
        assert at is not None
        width = batch.read_width
        self._hidden = _read(hidden[:, -width:], at)
        if not forward.per_token:
            return None
        if forward.in_chunks is None:
            self._first = hidden[:, :1].detach()
            return (hidden[:, :1],)
        return (hidden[:, :0],) if forward.in_chunks else (self._hidden[None],)

    def _read(self) -> Tensor:
        """(outputs, d), the output layer's input; or (outputs, classes), if computed at once."""
        forward, layer = self.forward, self.forward.output_layer
        if layer is None:
            return self._classes()
        if forward.in_chunks is None:
            with torch.no_grad():
                logits = self._run()
            assert self._first is not None
            forward.in_chunks, self._first = layer.reproduces(self._first, logits), None
        logits = self._run()
        hidden, self._hidden = self._hidden, None
        if not forward.in_chunks:
            return logits[0]
        assert hidden is not None
        return hidden

    def _classes(self) -> Tensor:
        """(outputs, classes)."""
        batch, logits = self.batch, self._run()
        if self._hidden is not None:
            assert self.forward.score is not None
            hidden, self._hidden = self._hidden, None
            return self.forward.score(hidden)  # type: ignore[no-any-return]
        if batch.read_at is None:
            return logits
        width = batch.read_width  # virtual tokens stand before the text
        return _read(logits[:, -width:], batch.read_at)

    def _run(self) -> Tensor:
        """(rows, width, ...) logits, or (examples, classes), of the model with its hooks."""
        batch, forward = self.batch, self.forward
        inputs: dict[str, Any] = dict(batch.inputs)
        if forward.packed:
            assert batch.positions is not None
            inputs["position_ids"] = batch.positions + forward.first_position
            inputs |= {"document_lengths": batch.lengths, "use_cache": False}
        if batch.shared:
            inputs["shared_tokens"] = batch.shared
        self._running = True
        try:
            out = forward.model(**inputs)
        finally:
            self._running = False
        if forward.output == "spans":
            return torch.stack((out.start_logits, out.end_logits), dim=-1)
        logits: Tensor = out.logits
        return logits


def base_of(model: nn.Module) -> Any:
    """The transformers model inside of PEFT's wrapper, if there is one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped


def _read(rows: Tensor, at: Tensor) -> Tensor:
    """(rows, width, d) -> (outputs, k * d), at places of the flattened rows, (outputs, k) or, for
    k = 1, (outputs,).
    """
    states = rows.flatten(0, 1).index_select(0, at.flatten())
    return states if at.dim() == 1 or at.shape[1] == 1 else states.reshape(len(at), -1)


def _hook(stack: contextlib.ExitStack, module: nn.Module, hook: Any) -> None:
    stack.callback(module.register_forward_pre_hook(hook).remove)


def _perturb(
    stack: contextlib.ExitStack, model: nn.Module, batch: Batch, perturbation: Perturbation
) -> None:
    """Until the stack closes, the model's blocks get perturbed embeddings of the tokens."""
    embeddings: Any = base_of(model).get_input_embeddings()
    example_of = batch.example_of_tokens()

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return perturbation(out, example_of)

    stack.callback(embeddings.register_forward_hook(hook).remove)


def _first_position(base: Any) -> int:
    """The position of a text's first token: one after the padding token's in RoBERTa's family."""
    trunk = getattr(base, base.base_model_prefix, base)
    embeddings: Any = getattr(trunk, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0
