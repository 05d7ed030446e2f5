"""Runs a model on a batch and computes only the outputs that are read.

- In a language model, the output layer reads only the places whose next token is learned or scored
  (`output_layer.py`).
- In an encoder with a classifier and packed batches, the last block outputs only the first token of
  each example (`first_tokens.py`). A block built like BERT's also computes queries and attention
  only for first tokens.

Hooks on the model's modules do this without changing the model's code. Their assumptions about an
architecture are checked against unpadded single examples (`self_check.py`) or at the first batch.
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
from peftkit.bases.pooled import reads_every_token, reads_places
from peftkit.bases.pooling import joined_at
from peftkit.data.head import Output
from peftkit.methods.method import Layout
from peftkit.tasks.losses import Loss
from peftkit.training.forward.collating import Batch
from peftkit.training.forward.document_attention import attention_configs, packed_attention
from peftkit.training.forward.first_tokens import keep_first_tokens
from peftkit.training.forward.frozen_trunk import FrozenTrunk
from peftkit.training.forward.output_layer import OutputLayer

Perturbation = Callable[[Tensor, Tensor], Tensor]
"""(embeddings (rows, width, d), example_of (rows, width)) -> perturbed embeddings. `example_of` is
the number of each token's example in the batch, from 0; -1 at padding."""


class ForwardPass:
    """Runs a model on batches of one layout, and reads its outputs.

    Args:
        output: kind of the head's outputs.
        layout: layout of the batches.
        only_read: whether to compute only the outputs that are read. False computes all outputs and
            then selects, which works for every architecture.
    """

    def __init__(
        self, model: nn.Module, output: Output, layout: Layout = "padded", only_read: bool = True
    ) -> None:
        base: Any = base_of(model)
        self.model, self.output, self.layout, self.only_read = model, output, layout, only_read
        self.per_token = output != "pooled"
        self.every_token = self.per_token or reads_every_token(base)
        """Whether the last hidden states of all tokens can be read; if not, only one per example is
        read."""
        self.reads_places = reads_places(base)
        """Whether the model itself reads the places in `Batch.read_at`."""
        self.output_layer = OutputLayer.of(base) if self.per_token and only_read else None
        self.score: nn.Module | None = getattr(base, "score", None)
        self.last_block = [blocks[-1] for _, blocks in stacks(base)][-1:]
        self.first_position = _first_position(base)
        self.configs = attention_configs(model)
        self.in_chunks: bool | None = None if self.output_layer is not None else False
        """Whether the output layer can run in chunks outside of the model; None until the first
        batch has shown it."""

    def in_layout(self, layout: Layout) -> ForwardPass:
        """Returns a copy that runs batches of another layout."""
        other = copy.copy(self)
        other.layout = layout
        return other

    def rebuilt(self) -> ForwardPass:
        """Returns a new forward pass of the model, for use after its modules were replaced."""
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
        """Sets the model's hooks for a batch inside the block. The backward pass must also run
        inside the block, since recomputed activations need the hooks.
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
                pass  # the frozen trunk replaces the last block
            elif self.packed and not self.every_token and self.last_block:
                num_tokens = batch.input_ids.shape[1]
                keep_first_tokens(stack, self.last_block[0], batch.starts, num_tokens)
            if self.packed:
                stack.enter_context(packed_attention(self.configs))
            if trunk is not None:  # last: its hook follows those above
                stack.enter_context(trunk.attached(whole))
            if perturbation is not None:
                _perturb(stack, self.model, batch, perturbation)
            yield run


@dataclass
class HookedBatch:
    """A batch, and a model whose hooks are set for this batch."""

    forward: ForwardPass
    batch: Batch
    _hidden: Tensor | None = None
    """The output layer's input at the places that are read."""
    _first: Tensor | None = None
    """The output layer's input at the first place of each row."""
    _running: bool = field(default=False)

    def loss(self, loss: Loss) -> Tensor:
        """The sum of the batch's losses, a differentiable scalar."""
        batch, layer, read = self.batch, self.forward.output_layer, self._read()
        if not self.forward.in_chunks:
            return loss.total(loss.values(read, batch.targets), batch)
        assert layer is not None
        if loss.linear:
            return layer.weighted_sum(read, batch.targets, batch.weights, loss.values)
        return loss.total(layer.values(read, batch.targets, loss.values), batch)

    def outputs(self) -> Iterator[tuple[slice, Tensor]]:
        """Yields the outputs in parts: (slice of the part, tensor (n, classes or vocabulary))."""
        read, layer = self._read(), self.forward.output_layer
        if not self.forward.in_chunks:
            yield slice(0, len(read)), read
            return
        assert layer is not None
        for start in range(0, len(read), layer.chunk_size):
            part = slice(start, min(start + layer.chunk_size, len(read)))
            yield part, layer.logits(read[part])

    def capture(self, _: nn.Module, args: tuple[Tensor, ...]) -> Any:
        """Stores the hidden states that are read, and shortens the output layer's input so that the
        layer computes as little as possible. It is a hook before the output layer.
        """
        if not self._running:
            return None
        batch, forward, hidden = self.batch, self.forward, args[0]
        at = batch.read_at if forward.per_token else batch.ends
        assert at is not None
        width = batch.read_width
        self._hidden = joined_at(hidden[:, -width:], at)
        if not forward.per_token:
            return None
        if forward.in_chunks is None:
            self._first = hidden[:, :1].detach()
            return (hidden[:, :1],)
        return (hidden[:, :0],) if forward.in_chunks else (self._hidden[None],)

    def _read(self) -> Tensor:
        """Runs the model; returns the outputs, (outputs, classes or vocabulary). If the output
        layer runs in chunks, returns the input of the output layer, (outputs, d).
        """
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
        """Runs a model that has no language-model head; returns logits (outputs, classes)."""
        batch, logits = self.batch, self._run()
        if self._hidden is not None:
            assert self.forward.score is not None
            hidden, self._hidden = self._hidden, None
            return self.forward.score(hidden)  # type: ignore[no-any-return]
        if batch.read_at is None or self.forward.reads_places:
            return logits
        width = batch.read_width  # virtual tokens precede the text
        return joined_at(logits[:, -width:], batch.read_at)

    def _run(self) -> Tensor:
        """Runs the model; returns its logits, (rows, width, ...) or (examples, classes)."""
        batch, forward = self.batch, self.forward
        inputs: dict[str, Any] = dict(batch.inputs)
        if forward.packed:
            assert batch.positions is not None
            inputs["position_ids"] = batch.positions + forward.first_position
            inputs |= {"document_lengths": batch.lengths, "use_cache": False}
        if forward.reads_places:
            inputs["read_at"] = batch.read_at
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
    """The transformers model, without PEFT's wrapper if it has one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped


def _hook(stack: contextlib.ExitStack, module: nn.Module, hook: Any) -> None:
    stack.callback(module.register_forward_pre_hook(hook).remove)


def _perturb(
    stack: contextlib.ExitStack, model: nn.Module, batch: Batch, perturbation: Perturbation
) -> None:
    """Perturbs the model's token embeddings until `stack` is exited."""
    embeddings: Any = base_of(model).get_input_embeddings()
    example_of = batch.example_of_tokens()

    def hook(_: nn.Module, __: object, out: Tensor) -> Tensor:
        return perturbation(out, example_of)

    stack.callback(embeddings.register_forward_hook(hook).remove)


def _first_position(base: Any) -> int:
    """Position id of a text's first token: 0; in RoBERTa's family, padding token id + 1."""
    trunk = getattr(base, base.base_model_prefix, base)
    embeddings: Any = getattr(trunk, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0
