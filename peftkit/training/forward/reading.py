"""Runs a model on a batch and computes no more of its outputs than is read.

- Of a language model, the output layer sees only the positions whose next token is learned or
  judged, a chunk at a time, so that the logits of a batch never exist; in training each chunk's
  gradient is computed at once (as Liger and Apple do, arXiv:2410.10989, arXiv:2411.09009).
- Of an encoder's classifier in the packed layout, the last block goes on with the first token of
  each example only; in blocks built like BERT's its queries and attention too (`first_tokens`).

Hooks on the model's modules do it, no code of the model is changed. What they assume of an
architecture is checked against unpadded single examples (`self_check`), or at the first batch.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peftkit.bases.architectures import stacks
from peftkit.bases.pooled import reads_every_token
from peftkit.methods.method import Layout
from peftkit.tasks.task import Reads
from peftkit.training.forward.collating import Batch
from peftkit.training.forward.document_attention import attention_configs, packed_attention
from peftkit.training.forward.first_tokens import keep_first_tokens
from peftkit.training.forward.frozen_trunk import FrozenTrunk

CHUNK = 2**24
"""Most numbers of logits at a time: 341 positions of a vocabulary of 49,152."""

SumOfLosses = Callable[[Tensor, Tensor, Tensor], Tensor]
"""(outputs, targets, weights) -> their weighted sum of losses."""


class Reader:
    """A model, and how batches are given to it and its outputs read.

    Args:
        layout: of the batches that it will be given.
        only_read: False to compute all outputs and then pick, which every architecture bears.
    """

    def __init__(
        self, model: nn.Module, reads: Reads, layout: Layout = "padded", only_read: bool = True
    ) -> None:
        base: Any = base_of(model)
        self.model, self.reads, self.layout, self.only_read = model, reads, layout, only_read
        self.per_token = reads in ("labelled", "all")
        self.every_token = self.per_token or reads_every_token(base)
        self.trunk: FrozenTrunk | None = None
        self.output: nn.Module | None = None
        if self.per_token and only_read and hasattr(base, "get_output_embeddings"):
            self.output = base.get_output_embeddings()
        self.score: nn.Module | None = getattr(base, "score", None)
        self.last_block = [blocks[-1] for _, blocks in stacks(base)][-1:]
        self.first_position = _first_position(base)
        self.configs = attention_configs(model)
        self.config = base.config
        config = base.config.get_text_config()
        self.softcap: float | None = getattr(config, "final_logit_softcapping", None)
        self.chunk_size = max(1, CHUNK // getattr(config, "vocab_size", 1))
        self.in_chunks: bool | None = None if self.output is not None else False
        self._hidden: Tensor | None = None
        self._first: Tensor | None = None
        self._capturing = False

    @property
    def packed(self) -> bool:
        """Whether batches lie in one row."""
        return self.layout != "padded"

    def keep(self, trunk: FrozenTrunk | None) -> None:
        """Has frozen blocks, if there are some, run once for each example, which then is whole in
        its row.
        """
        self.trunk = trunk
        if trunk is not None:
            self.layout = "packed"

    @contextlib.contextmanager
    def ready(self, batch: Batch) -> Iterator[Batch]:
        """Inside, the model can be run on the batch that this gives, and gradients be computed:
        activations that are computed again need the hooks too.
        """
        with contextlib.ExitStack() as stack:
            whole = batch
            if self.trunk is not None:
                batch = self.trunk.given(whole)
            if self.output is not None:
                self._hook(stack, self.output, self._capture(batch))
            elif self.packed and not self.per_token and self.score is not None:
                self._hook(stack, self.score, self._capture(batch))
            elif batch is not whole:
                pass  # the last block is left out
            elif self.packed and not self.every_token and self.last_block:
                num_tokens = batch.input_ids.shape[1]
                keep_first_tokens(stack, self.last_block[0], batch.starts, num_tokens)
            if self.packed:
                stack.enter_context(packed_attention(self.configs))
            if self.trunk is not None:  # its hook comes after those above
                stack.enter_context(self.trunk.ready(whole))
            yield batch

    @staticmethod
    def _hook(stack: contextlib.ExitStack, module: nn.Module, hook: Any) -> None:
        stack.callback(module.register_forward_pre_hook(hook).remove)

    def loss(self, batch: Batch, losses: SumOfLosses) -> Tensor:
        """The batch's sum of losses, a scalar; differentiable."""
        read = self._read(batch)
        if not self.in_chunks:
            return losses(read, batch.targets, batch.weights)
        assert self.output is not None

        def of_chunk(hidden: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
            return losses(self._finished(hidden), targets, weights)

        trained = [p for p in self.output.parameters() if p.requires_grad]
        found: Tensor = _LossInChunks.apply(  # type: ignore[no-untyped-call]
            read, batch.targets, batch.weights, of_chunk, self.chunk_size, *trained
        )
        return found

    def outputs(self, batch: Batch) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive (targets, classes or vocabulary), and which of the targets they are."""
        read = self._read(batch)
        size = self.chunk_size if self.in_chunks else max(1, len(read))
        for start in range(0, len(read), size):
            part = slice(start, min(start + size, len(read)))
            yield part, self._finished(read[part]) if self.in_chunks else read[part]

    def _read(self, batch: Batch) -> Tensor:
        """(targets, d), what the output layer is to see; or (targets, classes), where all of it is
        computed at once.
        """
        if self.output is None:
            return self._logits(batch)
        if self.in_chunks is None:
            self.in_chunks = self._finishes(batch)
        logits = self._run(batch)
        hidden, self._hidden = self._hidden, None
        if not self.in_chunks:
            return logits[0]
        assert hidden is not None
        return hidden

    @torch.no_grad()
    def _finishes(self, batch: Batch) -> bool:
        """Whether `_finished` does to hidden states what the model does."""
        logits = self._run(batch)
        assert self._first is not None
        ours, self._first = self._finished(self._first), None
        same = ours.shape == logits.shape
        return same and torch.allclose(ours.float(), logits.float(), rtol=1e-4, atol=1e-5)

    def _logits(self, batch: Batch) -> Tensor:
        logits = self._run(batch)
        if self._hidden is not None:
            assert self.score is not None
            hidden, self._hidden = self._hidden, None
            return self.score(hidden)  # type: ignore[no-any-return]
        if batch.read_at is None:
            return logits
        width = batch.input_ids.shape[1]  # virtual tokens stand before the text
        return logits[:, -width:].flatten(0, 1).index_select(0, batch.read_at)

    def _run(self, batch: Batch) -> Tensor:
        inputs: dict[str, Any] = batch.inputs()
        if self.packed:
            assert batch.positions is not None
            inputs["position_ids"] = batch.positions + self.first_position
            inputs |= {"document_lengths": batch.lengths, "use_cache": False}
        if batch.shared:
            inputs["shared_tokens"] = batch.shared
        self._capturing = True
        try:
            logits: Tensor = self.model(**inputs).logits
        finally:
            self._capturing = False
        return logits

    def _capture(self, batch: Batch) -> Callable[[nn.Module, tuple[Tensor, ...]], Any]:
        """A hook that takes what is read out of the output layer's input."""
        at = batch.read_at if self.per_token else batch.ends
        assert at is not None
        width = batch.input_ids.shape[1]

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> Any:
            if not self._capturing:
                return None
            hidden = args[0]
            found = hidden[:, -width:].flatten(0, 1).index_select(0, at)
            self._hidden = found
            if not self.per_token:
                return None
            if self.in_chunks is None:
                self._first = hidden[:, :1].detach()
                return (hidden[:, :1],)
            return (hidden[:, :0],) if self.in_chunks else (found[None],)

        return hook

    def _finished(self, hidden: Tensor) -> Tensor:
        """(..., d) -> (..., vocabulary), what a language model makes of them."""
        assert self.output is not None
        logits: Tensor = self.output(hidden)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits


class LossOf(nn.Module):
    """A reader's model as Accelerate prepares it: a batch in, its sum of losses out."""

    def __init__(self, reader: Reader, losses: SumOfLosses) -> None:
        super().__init__()
        self.model = reader.model
        self.reader, self.losses = reader, losses

    def forward(self, batch: Batch) -> Tensor:
        """A scalar."""
        return self.reader.loss(batch, self.losses)


class _LossInChunks(torch.autograd.Function):
    """Sums losses chunk by chunk, and computes each chunk's gradient while its logits are there."""

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        targets: Tensor,
        weights: Tensor,
        losses: SumOfLosses,
        size: int,
        *trained: Tensor,
    ) -> Tensor:
        needs_hidden, needs_any = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.zeros_like(hidden) if needs_hidden else None
        of_trained = [torch.zeros_like(parameter) for parameter in trained]
        for start in range(0, len(hidden), size):
            part = slice(start, start + size)
            with torch.enable_grad() if needs_any else contextlib.nullcontext():
                chunk = hidden[part].detach().requires_grad_(needs_hidden)
                loss = losses(chunk, targets[part], weights[part])
            total += loss.detach()
            if needs_any:
                wanted = [*([chunk] if needs_hidden else []), *trained]
                found = list(torch.autograd.grad(loss, wanted))
                if of_hidden is not None:
                    of_hidden[part] = found.pop(0)
                for summed, gradient in zip(of_trained, found, strict=True):
                    summed.add_(gradient)
        ctx.of_hidden, ctx.of_trained = of_hidden, of_trained
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (scale,) = gradients
        of_hidden = None if ctx.of_hidden is None else ctx.of_hidden.mul_(scale)
        of_trained = [gradient.mul_(scale) for gradient in ctx.of_trained]
        del ctx.of_hidden, ctx.of_trained
        return (of_hidden, None, None, None, None, *of_trained)


def _first_position(base: Any) -> int:
    """The position of a text's first token: behind the padding token's in RoBERTa's family."""
    trunk = getattr(base, base.base_model_prefix, base)
    embeddings: Any = getattr(trunk, "embeddings", None)
    if hasattr(embeddings, "create_position_ids_from_input_ids"):
        return int(embeddings.padding_idx) + 1
    return 0


def base_of(model: nn.Module) -> Any:
    """The transformers model inside of PEFT's wrapper, if there is one."""
    wrapped: Any = model
    return wrapped.get_base_model() if hasattr(model, "get_base_model") else wrapped
