"""The engine: a model with everything that forward and backward passes need.

    gradients += d(sum of losses of the micro-batches / count) / d(trained parameters)

All passes use the engine. The training loop, the memory trial, the plan and the self-check call
`gradients`; scoring, features and the certificate of a merge call `outputs`; `write` generates
text.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor, nn

from peftkit.bases.devices import rng_devices
from peftkit.data.encoded import Examples
from peftkit.data.head import Head
from peftkit.methods.method import Layout
from peftkit.tasks.losses import Loss
from peftkit.training.forward.batching import inference_batches, micro_batches, row_tokens
from peftkit.training.forward.collating import Batch, collate, to_device
from peftkit.training.forward.forward_pass import ForwardPass, HookedBatch, Perturbation, base_of
from peftkit.training.forward.frozen_trunk import FrozenTrunk
from peftkit.training.forward.generating import Tokens, write
from peftkit.training.forward.steps import Step

Penalty = Callable[[nn.Module], Tensor | None]
"""model -> scalar that is added to the step's mean loss, or None; see `Method.penalty`."""


@dataclass(frozen=True)
class StepPass:
    """The result of running a step's micro-batches."""

    loss: Tensor
    """The sum of the micro-batches' losses divided by the step's count, a scalar."""
    num_padded_tokens: int
    """Number of tokens that the model read, padding included. First tokens that the examples of a
    row share are counted once."""


@dataclass(frozen=True)
class Engine:
    """A model with its head, its loss, its devices, and a token budget."""

    forward: ForwardPass
    """The forward pass, which runs the model on batches."""
    head: Head
    loss: Loss
    pad_token_id: int
    micro_batch_tokens: int
    """Maximum number of tokens in one forward pass on one device, padding included."""
    accelerator: Accelerator
    trunk: FrozenTrunk | None = None
    """Frozen blocks that run only once for each example; None if all blocks always run."""
    parallel: nn.Module | None = None
    """Module that computes the loss and sums gradients over processes; None if gradients are not
    summed."""

    @classmethod
    def of(
        cls,
        model: nn.Module,
        head: Head,
        loss: Loss,
        pad_token_id: int,
        micro_batch_tokens: int,
        accelerator: Accelerator,
        layout: Layout = "padded",
    ) -> Engine:
        """Makes the engine of a model; the model's architecture must support `layout`."""
        forward = ForwardPass(model, head.output, layout)
        return cls(forward, head, loss, pad_token_id, micro_batch_tokens, accelerator)

    @property
    def model(self) -> nn.Module:
        """The model that the engine runs."""
        return self.forward.model

    @property
    def layout(self) -> Layout:
        """Layout of the batches."""
        return self.forward.layout

    @property
    def config(self) -> Any:
        """The model's configuration, from transformers."""
        return base_of(self.model).config

    def in_layout(self, layout: Layout) -> Engine:
        """A copy of the engine with another layout, and without a frozen trunk."""
        return replace(self, forward=self.forward.in_layout(layout), trunk=None)

    def with_trunk(self, trunk: FrozenTrunk | None) -> Engine:
        """Returns a packed copy of the engine that runs the trunk's frozen blocks once per example.
        If `trunk` is None, returns the engine itself.
        """
        return self if trunk is None else replace(self.in_layout("packed"), trunk=trunk)

    def in_all_processes(self) -> Engine:
        """A copy of the engine that adds up the gradients of all processes."""
        return replace(self, parallel=self.accelerator.prepare(_Loss(self.model, self.loss)))

    def batch(self, examples: Examples, indices: Sequence[int]) -> Batch:
        """Makes a batch of the examples at `indices` on the engine's device. If there are none, the
        batch is example 0 with weight 0.
        """
        batch = collate(examples, indices, self.pad_token_id, self.layout)
        return to_device(batch, self.accelerator.device)

    def batches(self, examples: Examples) -> list[tuple[int, ...]]:
        """Divides all examples into batches of similar lengths within the token budget, the longest
        first; returns the indices of each batch.
        """
        on_cpu = self.accelerator.device.type == "cpu"
        tokens = row_tokens(self.micro_batch_tokens, self.layout, on_cpu, self.config)
        return list(inference_batches(examples, tokens, self.layout))

    def own_batches(self, examples: Examples) -> list[tuple[int, ...]]:
        """Returns the part of `batches` that this process runs."""
        return self.batches(examples)[
            self.accelerator.process_index :: self.accelerator.num_processes
        ]

    def micro_batches(self, examples: Examples, step: Step) -> list[tuple[int, ...]]:
        """Returns this process's micro-batches of a step, each as indices of examples."""
        return micro_batches(
            examples, step, self.micro_batch_tokens, self.layout, self.accelerator, self.config
        )

    def gradients(
        self,
        examples: Examples,
        micro_batches: Sequence[Sequence[int]],
        count: float = 1.0,
        *,
        sync: bool = True,
        penalty: Penalty | None = None,
        perturbation: Perturbation | None = None,
    ) -> StepPass:
        """Adds the gradients of a step's loss to the `grad` of the trained parameters.

        Args:
            micro_batches: the indices of each micro-batch's examples; an empty one adds nothing.
            count: number by which the sum of losses over all processes is divided.
            sync: whether to sum gradients over all processes.
            penalty: computes a scalar that is added to the loss of the last micro-batch.
            perturbation: changes the embeddings; the frozen trunk and shared beginnings are then
                not used.
        """
        engine = self
        if perturbation is not None and (self.trunk or self.layout == "shared"):
            engine = self.in_layout("packed")
        module = engine.parallel or _Loss(engine.model, engine.loss)
        total = torch.zeros((), device=self.accelerator.device)
        padded = 0
        for number, indices in enumerate(micro_batches, start=1):
            last = number == len(micro_batches)
            batch = engine.batch(examples, indices)
            with (
                contextlib.nullcontext() if last and sync else self.accelerator.no_sync(module),
                engine.forward.hooked(batch, engine.trunk, perturbation) as run,
            ):
                with self.accelerator.autocast():
                    loss = module(run).float() / count
                total += loss.detach()
                # DDP averages gradients over processes, but the loss is a sum over processes
                loss = loss * self.accelerator.num_processes
                if last and penalty and (added := penalty(self.model)) is not None:
                    loss = loss + added
                self.accelerator.backward(loss)
            padded += batch.num_padded_tokens if indices else 0
        return StepPass(total, padded)

    def outputs(self, batch: Batch) -> Iterator[tuple[slice, Tensor]]:
        """Yields the outputs in parts: (slice of the part, tensor (n, classes or vocabulary))."""
        with self.forward.hooked(batch, self.trunk) as run:
            yield from run.outputs()

    def write(
        self,
        prompts: Sequence[Tokens],
        tokenizer: Any,
        progress: Callable[[int], None] | None = None,
    ) -> list[str]:
        """Returns the text that the model generates after each prompt. Each process generates a
        share of the texts and returns all texts.

        Args:
            progress: called with the number of prompts answered since the last call, over all
                processes.
        """
        accelerator = self.accelerator
        processes = accelerator.num_processes
        places = range(accelerator.process_index, len(prompts), processes)
        # restores the random state, so that sampling does not change training
        with accelerator.autocast(), torch.random.fork_rng(rng_devices(accelerator.device)):
            texts = write(
                self.model,
                [prompts[place] for place in places],
                self.head,
                tokenizer,
                progress and (lambda count: progress(count * processes)),
            )
        written = list(zip(places, texts, strict=True))
        if processes > 1:
            written = gather_object(written)
        return [text for _, text in sorted(written)]


class _Loss(nn.Module):
    """Computes the sum of a batch's losses; a module, so that Accelerate can wrap it."""

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        super().__init__()
        self.model, self.loss = model, loss

    def forward(self, run: HookedBatch) -> Tensor:
        """The sum of the batch's losses, a scalar."""
        return run.loss(self.loss)
