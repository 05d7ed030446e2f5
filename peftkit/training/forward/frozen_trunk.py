"""Runs the blocks below the lowest trained tensor only once per example; caches their outputs.

    y = g(f(x))       f frozen and without dropout: f(x) is the same in every epoch

Feature extraction with a frozen trunk (Peters et al. 2019, arXiv:1903.05987), for any method that
trains only upper layers. From the second epoch on, modules that return the cached outputs replace
the frozen blocks and an encoder's embeddings.
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
"""`model_type` of models whose blocks take and return only hidden states. In the encoders among
them, only the blocks read the output of the embeddings."""
EMBEDDINGS = ("embeddings", "embeddings_project")
"""Names of the modules that run before an encoder's blocks."""


class FrozenTrunk:
    """The frozen blocks of a model in the packed layout, and their cached outputs by example."""

    def __init__(
        self, trunk: Any, blocks: nn.ModuleList, num_frozen: int, every_token: bool, at_end: bool
    ):
        self.blocks, self.num_frozen = blocks, num_frozen
        self.places: list[tuple[nn.Module, str]] = [(blocks, str(n)) for n in range(num_frozen)]
        """(parent, name in the parent) of each module that is replaced."""
        self.places += [(trunk, name) for name in EMBEDDINGS if hasattr(trunk, name)]
        self.whole = every_token or num_frozen < len(blocks)
        """Whether the outputs of all tokens are cached; if not, only the output of the token that
        is read."""
        self.at_end = at_end
        """Whether the class is read at an example's last token instead of its first."""
        self.kept: dict[int, _Kept] = {}
        self.as_tuple = False

    def remaining(self, batch: Batch) -> Batch:
        """Returns the part of a batch that the forward pass must run. If the head reads one token
        per example and the batch's outputs are cached, these tokens suffice. In all other cases,
        the whole batch must run.
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
        """Inside the block, a forward pass on `remaining(batch)` uses the batch's cached outputs of
        the frozen blocks; if there are none yet, the pass caches them.
        """
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
        """Inside the block, modules that return cached outputs replace the frozen modules."""
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
    """Finds the model's frozen blocks; None if there are none or peftkit cannot replace them.

    Args:
        model: the base with the method's adapter injected.
        quiet: modules that finish before the first trained tensor is used.
        every_token: True if the hidden states of all tokens may be read; False if the hidden state
            of only one token per example is read.
        num_passes: number of passes over the training rows; below 2, caching saves nothing.
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
    """Cached hidden states of a split's examples, in memory or, if too large, in a file."""

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
    """Returns an uninitialized tensor, (count, d), in memory or, if memory is short, in a temporary
    file. Returns None if neither has room for the tensor.
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
        shutil.rmtree(folder)  # the mapped file stays usable until the process ends


class _StandIn(nn.Module):
    """Replaces a frozen module, and returns the last frozen block's cached output."""

    def __init__(self, module: nn.Module, hidden: Tensor, as_tuple: bool) -> None:
        super().__init__()
        object.__setattr__(self, "_module", module)  # not registered as a submodule
        self._out = (hidden,) if as_tuple else hidden

    def __getattr__(self, name: str) -> Any:  # models read attributes of blocks
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(self.__dict__["_module"], name)

    def forward(self, *_: Any, **__: Any) -> Any:
        """Returns the cached output; ignores all arguments."""
        return self._out
