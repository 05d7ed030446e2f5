"""Examples side by side: the only place where they are padded or packed into tensors."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from peftkit.data.encoded import IGNORE_INDEX, Examples, Output
from peftkit.methods.method import Layout

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Batch:
    """Examples padded to one width, or packed behind one another in one row."""

    input_ids: Tensor
    """(rows, width) int64; packed (1, tokens)."""
    attention_mask: Tensor | None
    """(rows, width) int64, 1 where there is a token; None if packed."""
    targets: Tensor
    """(targets,) int64, in the order in which the outputs are read."""
    weights: Tensor
    """(targets,) float32."""
    token_type_ids: Tensor | None
    """As `input_ids`, for pairs of texts."""
    read_at: Tensor | None
    """(targets,) int64, places in the flattened `input_ids` that are read; None where each example
    has one output."""
    lengths: tuple[int, ...] | None
    """Tokens of each example, if packed."""
    shared: int
    """Tokens that all examples begin with and only the first has in the row; 0 mostly."""
    positions: Tensor | None
    """(1, tokens) int64, place of each token in its example, if packed."""
    examples: Examples
    indices: tuple[int, ...]
    """Which of the examples these are."""

    @property
    def read_width(self) -> int:
        """Tokens of a row in the stream whose outputs are read."""
        return self.input_ids.shape[1]

    def example_of_tokens(self) -> Tensor:
        """As `input_ids`: which of the batch's examples a token is of, from 0; -1 for padding."""
        if self.lengths is None:
            assert self.attention_mask is not None
            rows = torch.arange(len(self.input_ids), device=self.input_ids.device)[:, None]
            return torch.where(self.attention_mask.bool(), rows, -1)
        sizes = [n - self.shared * (place > 0) for place, n in enumerate(self.lengths)]
        numbers = torch.arange(len(sizes), device=self.input_ids.device)
        return torch.repeat_interleave(numbers, torch.tensor(sizes, device=numbers.device))[None]

    @property
    def ends(self) -> Tensor:
        """(examples,) int64, places of the last tokens in a packed row."""
        ends = torch.tensor(self.lengths, device=self.input_ids.device).cumsum(0) - 1
        return ends - self.shared * torch.arange(len(ends), device=ends.device)

    @property
    def starts(self) -> Tensor:
        """(examples,) int64, places of the first tokens in a packed row; one, if it is shared."""
        starts = self.ends + 1 - torch.tensor(self.lengths, device=self.input_ids.device)
        return torch.zeros_like(starts) if self.shared else starts

    def inputs(self) -> dict[str, Tensor]:
        """The keyword arguments of the model's forward pass, in both layouts."""
        named = {
            "input_ids": self.input_ids,
            "attention_mask": self.attention_mask,
            "token_type_ids": self.token_type_ids,
        }
        return {name: value for name, value in named.items() if value is not None}


def collate(
    examples: Examples,
    indices: Sequence[int],
    output: Output,
    pad_token_id: int,
    layout: Layout = "padded",
) -> Batch:
    """Examples padded on the right to the longest of them, or packed.

    Without indices: the first example with weight 0, for a process that has none in this step.
    """
    weightless = not indices
    chosen = list(indices) or [0]
    shared = examples.shared_tokens(chosen) if layout == "shared" else 0
    ids = _rows(examples.input_ids, chosen)
    targets = _rows(examples.targets, chosen)
    weights = [np.ones(len(target), np.float32) for target in targets]
    if examples.weights is not None:
        weights = _rows(examples.weights, chosen)
    segments = None
    if examples.segment_ids is not None:
        segments = _joined(_rows(examples.segment_ids, chosen), 0, layout)
    read_at = None
    if output != "pooled":
        learned = _joined(targets, IGNORE_INDEX, layout, shared) != IGNORE_INDEX
        read_at = learned.flatten().nonzero().squeeze(1)
        weights = [w[t != IGNORE_INDEX] for w, t in zip(weights, targets, strict=True)]
        targets = [target[target != IGNORE_INDEX] for target in targets]
    packed = layout != "padded"
    return Batch(
        input_ids=_joined(ids, pad_token_id, layout, shared),
        attention_mask=None if packed else _joined([np.ones_like(i) for i in ids], 0, layout),
        targets=_one_after_another(targets),
        weights=_one_after_another(weights) * (0.0 if weightless else 1.0),
        token_type_ids=segments,
        read_at=read_at,
        lengths=tuple(map(len, ids)) if packed else None,
        shared=shared,
        positions=_joined([np.arange(len(i), dtype=i.dtype) for i in ids], 0, layout, shared)
        if packed
        else None,
        examples=examples,
        indices=tuple(chosen),
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """The batch with all tensors on a device."""
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    return replace(batch, **moved)


def _rows(arrays: Sequence[Array], chosen: Sequence[int]) -> list[Array]:
    return [arrays[index] for index in chosen]


def _joined(rows: list[Array], value: int, layout: Layout, shared: int = 0) -> Tensor:
    """(rows, width), filled up with a value; packed (1, tokens), with what is shared once."""
    if layout != "padded":
        return _one_after_another([rows[0], *(row[shared:] for row in rows[1:])])[None]
    filled = np.full((len(rows), max(map(len, rows))), value, rows[0].dtype)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(filled)


def _one_after_another(rows: list[Array]) -> Tensor:
    return torch.from_numpy(np.concatenate(rows))
