"""Runs the blocks below the lowest trained tensor once for each example, and keeps their outputs.

    y = g(f(x))       f frozen and without dropout: f(x) is the same in every epoch

Feature extraction with a frozen trunk (Peters et al. 2019, arXiv:1903.05987) under any method that
trains upper layers only. From the second epoch on, stand-ins that return the kept outputs replace
the frozen blocks, and an encoder's embeddings.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import psutil
import torch
from torch import Tensor, nn

from peftkit.bases.architectures import stacks
from peftkit.data.encoded import Examples
from peftkit.training.forward.collating import Batch

FAMILIES = {
    "bert", "camembert", "electra", "gemma", "gemma2", "gemma3_text", "gpt2", "llama", "mistral",
    "qwen2", "qwen3", "roberta", "xlm-roberta",
}  # fmt: skip
"""Model types whose blocks take and return hidden states and nothing else; only the blocks read the
output of an encoder's embeddings."""
EMBEDDINGS = ("embeddings", "embeddings_project")
"""Names of an encoder's modules before its blocks."""


class FrozenTrunk:
    """The frozen blocks of a model in the packed layout, and their outputs for each example."""

    def __init__(
        self, trunk: Any, blocks: nn.ModuleList, num_frozen: int, every_token: bool, at_end: bool
    ):
        self.blocks, self.num_frozen = blocks, num_frozen
        self.places: list[tuple[nn.Module, str]] = [(blocks, str(n)) for n in range(num_frozen)]
        """Parents of the modules that are replaced, and their names there."""
        self.places += [(trunk, name) for name in EMBEDDINGS if hasattr(trunk, name)]
        self.whole = every_token or num_frozen < len(blocks)
        """Whether all tokens of an example are kept, or only the one where its class is read."""
        self.at_end = at_end
        """Whether that one is the last, not the first."""
        self.kept: dict[int, _Kept] = {}
        self.as_tuple = False

    def remaining(self, batch: Batch) -> Batch:
        """The part of a batch that a forward pass still needs: the one token of each example that
        is read, if only it is kept and all of them are known; else the batch.
        """
        if self.whole or not self._kept_of(batch.examples).has(batch.indices):
            return batch
        assert batch.lengths is not None
        assert batch.positions is not None
        at = batch.ends if self.at_end else batch.starts
        return replace(
            batch,
            inputs={name: tensor[:, at] for name, tensor in batch.inputs.items()},
            lengths=(1,) * len(batch.lengths),
            positions=batch.positions[:, at],
        )

    @contextlib.contextmanager
    def attached(self, batch: Batch) -> Iterator[None]:
        """Inside, a forward pass on `remaining(batch)` uses the kept outputs, or records them."""
        kept = self._kept_of(batch.examples)
        if kept.has(batch.indices):
            with self._replaced(kept, batch):
                yield
        else:
            handle = self._record(kept, batch)
            try:
                yield
            finally:
                handle.remove()

    def _kept_of(self, examples: Examples) -> _Kept:
        if id(examples) not in self.kept:
            lengths = [int(n) if self.whole else 1 for n in examples.input_ids.lengths]
            self.kept[id(examples)] = _Kept(examples, lengths)
        return self.kept[id(examples)]

    def _record(self, kept: _Kept, batch: Batch) -> Any:
        last = self.blocks[self.num_frozen - 1]

        def hook(_: nn.Module, __: object, out: Any) -> None:
            self.as_tuple = isinstance(out, tuple)
            hidden = out[0] if self.as_tuple else out
            if not self.whole and self.at_end:
                hidden = hidden[0, batch.ends]
            kept.put(batch.indices, hidden.detach().reshape(-1, hidden.shape[-1]))

        return last.register_forward_hook(hook)

    @contextlib.contextmanager
    def _replaced(self, kept: _Kept, batch: Batch) -> Iterator[None]:
        """Inside, stand-ins replace the frozen modules."""
        rows = kept.get(batch.indices).to(batch.input_ids.device)
        hidden = rows[None] if self.whole or self.at_end else rows[:, None]
        with contextlib.ExitStack() as stack:
            for holder, name in self.places:
                module = getattr(holder, name)
                stack.callback(setattr, holder, name, module)
                as_tuple = self.as_tuple and holder is self.blocks
                setattr(holder, name, _StandIn(module, hidden, as_tuple))
            yield


def find_frozen_trunk(
    model: Any, quiet: Collection[nn.Module], every_token: bool, num_passes: int
) -> FrozenTrunk | None:
    """The frozen blocks; None if there are none, or it is not known how to replace them.

    Args:
        model: the base, with a method in it.
        quiet: modules that finish before the first trained tensor is used.
        every_token: whether each token's hidden state may be read, not only one per example.
        num_passes: over the training rows; the blocks are worth keeping from 2 on.
    """
    all_stacks = stacks(model)
    if len(all_stacks) != 1 or model.config.model_type not in FAMILIES or num_passes < 2:
        return None
    (_, blocks), done = all_stacks[0], set(quiet)
    num_frozen = next((n for n, block in enumerate(blocks) if block not in done), len(blocks))
    if num_frozen == 0:
        return None
    return FrozenTrunk(
        model.base_model, blocks, num_frozen, every_token, at_end=hasattr(model, "score")
    )


@dataclass
class _Kept:
    """Hidden states of the examples of one split, in memory, or in a file if they are too large."""

    examples: Examples
    lengths: list[int]

    def __post_init__(self) -> None:
        self.starts = np.cumsum([0, *self.lengths])
        self.known = np.zeros(len(self.lengths), bool)
        self.rows: Tensor | None = None
        self.no_room = False

    def has(self, indices: tuple[int, ...]) -> bool:
        return self.rows is not None and bool(self.known[list(indices)].all())

    def put(self, indices: tuple[int, ...], rows: Tensor) -> None:
        if self.rows is None and not self.no_room:
            self.rows = _allocate(int(self.starts[-1]), rows)
            self.no_room = self.rows is None
        if self.rows is None:
            return
        lengths = [self.lengths[index] for index in indices]
        for index, part in zip(indices, torch.split(rows, lengths), strict=True):
            self.rows[self.starts[index] : self.starts[index + 1]] = part
            self.known[index] = True

    def get(self, indices: tuple[int, ...]) -> Tensor:
        assert self.rows is not None
        return torch.cat([self.rows[self.starts[i] : self.starts[i + 1]] for i in indices])


def _allocate(count: int, like: Tensor) -> Tensor | None:
    """An empty (count, d) tensor in memory, or in a file without a name if memory is short; None if
    the disk has no room either.
    """
    size = count * like.shape[-1] * like.element_size()
    if size < psutil.virtual_memory().available // 2:
        return torch.empty(count, like.shape[-1], dtype=like.dtype)
    folder = tempfile.mkdtemp(prefix="peftkit-")
    try:
        if size > shutil.disk_usage(folder).free // 2:
            return None
        numbers = count * like.shape[-1]
        file = f"{folder}/hidden_states"
        rows = torch.from_file(file, shared=True, size=numbers, dtype=like.dtype)
        return rows.view(count, -1)
    finally:
        shutil.rmtree(folder)  # the mapping stays valid, and ends with the process


class _StandIn(nn.Module):
    """Replaces a frozen module, and returns the last block's kept output."""

    def __init__(self, module: nn.Module, hidden: Tensor, as_tuple: bool) -> None:
        super().__init__()
        object.__setattr__(self, "_module", module)  # not as a child: it is no part of the model
        self._out = (hidden,) if as_tuple else hidden

    def __getattr__(self, name: str) -> Any:  # models read a block's kind of attention
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_module"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        """The kept output, whatever the arguments."""
        return self._out
