"""Pads or packs examples into tensors; no other module does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from peftkit.data.encoded import Examples
from peftkit.data.ragged import Array, Ragged
from peftkit.methods.method import Layout

DECODER = "decoder_input_ids"


@dataclass(frozen=True)
class Batch:
    """Examples as tensors: padded to one width, or packed one after another in one row."""

    inputs: Mapping[str, Tensor]
    """The keyword arguments of the model's forward pass. Padded: ids (rows, width) int64, and masks
    that are 1 at tokens and 0 at padding. Packed: ids (1, tokens)."""
    targets: Tensor
    """(outputs, ...), target of each output, in the order in which the outputs are read."""
    weights: Tensor
    """(outputs,) float32, weight of each output in the loss."""
    example_of: Tensor
    """(outputs,) int64, number of each output's example in the batch, from 0."""
    read_at: Tensor | None
    """(outputs, k) int64, the token places that the head reads for each output, counted over all
    rows one after another. None if each example has one output."""
    lengths: tuple[int, ...] | None
    """Number of tokens of each example in a packed batch; None in a padded batch."""
    shared: int
    """Number of first tokens that all examples share; usually 0. The row has these tokens only
    once, in the first example."""
    positions: Tensor | None
    """(1, tokens) int64, place of each token in its example; None in a padded batch."""
    examples: Examples
    indices: tuple[int, ...]
    """Indices of the batch's examples in `examples`."""

    @property
    def input_ids(self) -> Tensor:
        """Token ids that the model reads; in an encoder-decoder, the ids that the encoder reads."""
        return self.inputs["input_ids"]

    @property
    def num_padded_tokens(self) -> int:
        """Number of tokens that the model reads, padding and a decoder's input included."""
        decoder = self.inputs.get(DECODER)
        return self.input_ids.numel() + (0 if decoder is None else decoder.numel())

    @property
    def read_width(self) -> int:
        """Width in tokens of the rows that the head reads (the decoder's rows, if any)."""
        return self.inputs.get(DECODER, self.input_ids).shape[1]

    def units(self) -> Tensor:
        """(examples,) int64, the id of the unit that each example belongs to."""
        units = self.examples.units
        numbers = np.array(self.indices) if units is None else units[list(self.indices)]
        return torch.from_numpy(numbers).to(self.weights.device)

    def column(self, name: str) -> Tensor:
        """The values of the column `name` for the batch's outputs, (outputs, ...)."""
        column = self.examples.columns[name]
        assert not isinstance(column, Ragged)
        return _of_outputs(column, self.examples, self.indices).to(self.weights.device)

    def example_of_tokens(self) -> Tensor:
        """The number of each token's example in the batch, from 0; -1 at padding. It has the shape
        of `input_ids`.
        """
        if self.lengths is None:
            rows = torch.arange(len(self.input_ids), device=self.input_ids.device)[:, None]
            return torch.where(self.inputs["attention_mask"].bool(), rows, -1)
        sizes = [n - self.shared * (place > 0) for place, n in enumerate(self.lengths)]
        numbers = torch.arange(len(sizes), device=self.input_ids.device)
        return torch.repeat_interleave(numbers, torch.tensor(sizes, device=numbers.device))[None]

    @property
    def ends(self) -> Tensor:
        """(examples,) int64, the place of each example's last token in a packed row."""
        ends = torch.tensor(self.lengths, device=self.input_ids.device).cumsum(0) - 1
        return ends - self.shared * torch.arange(len(ends), device=ends.device)

    @property
    def starts(self) -> Tensor:
        """(examples,) int64, the place of each example's first token in a packed row; 0 for all
        examples if they share first tokens.
        """
        starts = self.ends + 1 - torch.tensor(self.lengths, device=self.input_ids.device)
        return torch.zeros_like(starts) if self.shared else starts


def collate(
    examples: Examples, indices: Sequence[int], pad_token_id: int, layout: Layout = "padded"
) -> Batch:
    """Makes a batch of examples, either padded on the right to the longest example, or packed.

    If `indices` is empty, the batch is example 0 with weight 0: for a process that has no examples
    in a step.
    """
    chosen = tuple(indices) or (0,)
    packed = layout != "padded"
    shared = examples.shared_tokens(chosen) if layout == "shared" else 0
    streams = {
        name: [column[index].astype(np.int64) for index in chosen]
        for name, column in examples.inputs.items()
    }
    fills = {"token_type_ids": 0}
    inputs = {
        name: _join(rows, fills.get(name, pad_token_id), layout, shared)
        for name, rows in streams.items()
    }
    if not packed:
        masks = {"input_ids": "attention_mask", DECODER: "decoder_attention_mask"}
        inputs |= {
            masks[name]: _join([np.ones_like(row) for row in rows], 0, layout)
            for name, rows in streams.items()
            if name in masks
        }
    sizes = [examples.outputs_of(index) for index in chosen]
    numbers = np.repeat(np.arange(len(chosen)), [s.stop - s.start for s in sizes])
    weights = torch.ones(len(numbers))
    if examples.weights is not None:
        weights = _of_outputs(examples.weights, examples, chosen)
    ids = streams["input_ids"]
    positions = [np.arange(len(row), dtype=row.dtype) for row in ids]
    return Batch(
        inputs=inputs,
        targets=_of_outputs(examples.targets, examples, chosen),
        weights=weights if indices else torch.zeros_like(weights),
        example_of=torch.from_numpy(numbers),
        read_at=_read_at(examples, chosen, streams.get(DECODER, ids), packed, shared),
        lengths=tuple(map(len, ids)) if packed else None,
        shared=shared,
        positions=_join(positions, 0, layout, shared) if packed else None,
        examples=examples,
        indices=chosen,
    )


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Copies all tensors of a batch to a device."""
    moved: dict[str, Any] = {
        name: value.to(device, non_blocking=True)
        for name, value in vars(batch).items()
        if isinstance(value, Tensor)
    }
    moved["inputs"] = {
        name: value.to(device, non_blocking=True) for name, value in batch.inputs.items()
    }
    return replace(batch, **moved)


def _of_outputs(column: Array, examples: Examples, chosen: Sequence[int]) -> Tensor:
    """The values of a column for the outputs of the chosen examples, (outputs, ...)."""
    parts = [column[examples.outputs_of(index)] for index in chosen]
    return torch.from_numpy(np.concatenate(parts))


def _read_at(
    examples: Examples, chosen: Sequence[int], rows: Sequence[Array], packed: bool, shared: int
) -> Tensor | None:
    """The token places that the head reads for each output, (outputs, k), counted over all rows one
    after another. None if each example has one output.

    Args:
        rows: the chosen examples' tokens, from the decoder's input if there is one.
    """
    if examples.read_at is None:
        return None
    lengths = [len(row) for row in rows]
    starts = np.arange(len(rows)) * max(lengths)
    if packed:  # in the row, only the first example has the shared tokens
        starts = np.cumsum([0, *lengths[:-1]]) - shared * np.arange(len(rows))
    places = [
        examples.read_at[index].astype(np.int64) + start
        for index, start in zip(chosen, starts, strict=True)
    ]
    return torch.from_numpy(np.concatenate(places))


def _join(rows: Sequence[Array], value: int, layout: Layout, shared: int = 0) -> Tensor:
    """Joins rows into one tensor. If padded, it is (rows, width), filled with `value`; if packed,
    (1, tokens), with shared tokens only once.
    """
    if layout != "padded":
        return torch.from_numpy(np.concatenate([rows[0], *(row[shared:] for row in rows[1:])]))[
            None
        ]
    filled = np.full((len(rows), max(map(len, rows))), value, rows[0].dtype)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(filled)
