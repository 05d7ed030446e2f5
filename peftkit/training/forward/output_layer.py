"""Runs the output layer on chunks of a batch, so that the batch's logits never exist all at once.

In training, each chunk's gradient is computed while its logits exist (as in Liger and Apple's
Cut Cross-Entropy, arXiv:2410.10989, arXiv:2411.09009).
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from peftkit.bases.devices import rng_devices

CHUNK = 2**24
"""Maximum number of logits in memory at a time: 341 positions for a vocabulary of 49,152."""

Values = Callable[[Tensor, Tensor], Tensor]
"""(logits, targets) -> the loss of each output; see `Loss.values`."""


@dataclass(frozen=True)
class OutputLayer:
    """Turns a language model's last hidden states into logits."""

    module: nn.Module
    softcap: float | None
    chunk_size: int
    """Number of outputs in a chunk."""

    @classmethod
    def of(cls, base: Any) -> OutputLayer | None:
        """Returns the output layer of a transformers model; None if the model has none."""
        module = base.get_output_embeddings() if hasattr(base, "get_output_embeddings") else None
        if module is None:
            return None
        config = base.config.get_text_config()
        size = max(1, CHUNK // getattr(config, "vocab_size", 1))
        return cls(module, getattr(config, "final_logit_softcapping", None), size)

    def logits(self, hidden: Tensor) -> Tensor:
        """Computes logits, (..., vocabulary), from hidden states, (..., d)."""
        logits: Tensor = self.module(hidden)
        if self.softcap is not None:
            logits = self.softcap * torch.tanh(logits / self.softcap)
        return logits

    @torch.no_grad()
    def reproduces(self, hidden: Tensor, logits: Tensor) -> bool:
        """Whether this layer alone turns the hidden states into the model's logits, so that it can
        be run without the rest of the model.
        """
        ours = self.logits(hidden)
        same = ours.shape == logits.shape
        return same and torch.allclose(ours.float(), logits.float(), rtol=1e-4, atol=1e-5)

    def weighted_sum(
        self, hidden: Tensor, targets: Tensor, weights: Tensor, values: Values
    ) -> Tensor:
        """Computes the sum of weight_i * value_i, a scalar, and its gradients in the same pass.

        Args:
            hidden: (outputs, d), hidden states.
            targets: (outputs, ...).
            weights: (outputs,).
            values: computes the loss value of each output from its logits and target.
        """

        def of_chunk(part: slice, hidden: Tensor) -> Tensor:
            return (values(self.logits(hidden), targets[part]) * weights[part]).sum()

        total: Tensor = _Sum.apply(hidden, of_chunk, self.chunk_size, *self._trained())  # type: ignore[no-untyped-call]
        return total

    def values(self, hidden: Tensor, targets: Tensor, values: Values) -> Tensor:
        """Computes the loss value of each output, (outputs,) float32, differentiable. If the layer
        is trained, the backward pass recomputes the logits.

        Args:
            hidden: (outputs, d), hidden states.
            targets: (outputs, ...).
            values: computes the loss value of each output from its logits and target.
        """

        def of_chunk(part: slice, hidden: Tensor) -> Tensor:
            return values(self.logits(hidden), targets[part])

        each: Tensor = _Each.apply(hidden, of_chunk, self.chunk_size, *self._trained())  # type: ignore[no-untyped-call]
        return each

    def _trained(self) -> list[nn.Parameter]:
        return [parameter for parameter in self.module.parameters() if parameter.requires_grad]


OfChunk = Callable[[slice, Tensor], Tensor]
"""(slice of the outputs, their hidden states) -> the sum of their losses, or each output's loss."""


class _Sum(torch.autograd.Function):
    """Sums losses chunk by chunk, and computes each chunk's gradient while its logits exist."""

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, of_chunk: OfChunk, size: int, *trained: Tensor) -> Tensor:
        needs_hidden, needs_any = ctx.needs_input_grad[0], any(ctx.needs_input_grad)
        total = torch.zeros((), device=hidden.device)
        of_hidden = torch.zeros_like(hidden) if needs_hidden else None
        of_trained = [torch.zeros_like(parameter) for parameter in trained]
        for part in _parts(len(hidden), size):
            with torch.enable_grad() if needs_any else contextlib.nullcontext():
                chunk = hidden[part].detach().requires_grad_(needs_hidden)
                loss = of_chunk(part, chunk)
            total += loss.detach()
            if needs_any:
                wanted = [*([chunk] if needs_hidden else []), *trained]
                gradients = list(torch.autograd.grad(loss, wanted))
                if of_hidden is not None:
                    of_hidden[part] = gradients.pop(0)
                for summed, gradient in zip(of_trained, gradients, strict=True):
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
        return (of_hidden, None, None, *of_trained)


class _Each(torch.autograd.Function):
    """Computes each output's loss chunk by chunk, and stores d(loss_i)/d(hidden_i). The backward
    pass multiplies this by the gradient of loss_i. If the layer is trained, the backward pass also
    recomputes the chunks with the same dropout and in the same precision.
    """

    @staticmethod
    def forward(ctx: Any, hidden: Tensor, of_chunk: OfChunk, size: int, *trained: Tensor) -> Tensor:
        needs_hidden, device = ctx.needs_input_grad[0], hidden.device
        losses, of_hidden = [], torch.zeros_like(hidden) if needs_hidden else None
        ctx.states = []
        for part in _parts(len(hidden), size):
            if trained:
                ctx.states.append(_random_state(device))
            with torch.enable_grad() if needs_hidden else contextlib.nullcontext():
                chunk = hidden[part].detach().requires_grad_(needs_hidden)
                each = of_chunk(part, chunk)
                total = each.sum()  # the loss of an output depends on that output alone
            losses.append(each.detach())
            if of_hidden is not None:
                (of_hidden[part],) = torch.autograd.grad(total, [chunk])
        kind = device.type
        ctx.precision = torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        ctx.save_for_backward(hidden.detach())
        ctx.of_hidden, ctx.of_chunk, ctx.size, ctx.trained = of_hidden, of_chunk, size, trained
        return torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        (of_losses,) = gradients
        (hidden,), trained = ctx.saved_tensors, ctx.trained
        of_trained = [torch.zeros_like(parameter) for parameter in trained]
        device, (enabled, dtype) = hidden.device, ctx.precision
        chunks = zip(_parts(len(hidden), ctx.size), ctx.states, strict=True) if trained else ()
        for part, state in chunks:
            with (
                torch.random.fork_rng(rng_devices(device)),
                torch.autocast(device.type, dtype, enabled),
                torch.enable_grad(),
            ):
                _set_random_state(device, state)
                each = ctx.of_chunk(part, hidden[part])
            of_chunk = torch.autograd.grad(each, trained, of_losses[part])
            for summed, gradient in zip(of_trained, of_chunk, strict=True):
                summed.add_(gradient)
        of_hidden = None
        if ctx.of_hidden is not None:
            of_hidden = ctx.of_hidden.mul_(of_losses[:, None].to(ctx.of_hidden.dtype))
        del ctx.of_hidden, ctx.of_chunk, ctx.trained
        return (of_hidden, None, None, *of_trained)


def _random_state(device: torch.device) -> Tensor:
    """The state of a device's random generator."""
    if device.type == "cuda":
        return torch.cuda.get_rng_state(device)
    return torch.get_rng_state()


def _set_random_state(device: torch.device, state: Tensor) -> None:
    if device.type == "cuda":
        torch.cuda.set_rng_state(state, device)
    else:
        torch.set_rng_state(state)


def _parts(count: int, size: int) -> list[slice]:
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]
