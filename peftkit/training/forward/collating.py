"""Pads or packs examples into tensors; nothing else does."""

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
    """Examples padded to one width, or packed one after another in one row."""

    inputs: Mapping[str, Tensor]
    """The keyword arguments of the model's forward pass: ids (rows, width) int64, packed (1,
    tokens); padded with masks, 1 where there is a token."""
    targets: Tensor
    """(outputs, ...), in the order in which the outputs are read."""
    weights: Tensor
    """(outputs,) float32."""
    example_of: Tensor
    """(outputs,) int64, the batch's example that each output belongs to, from 0."""
    read_at: Tensor | None
    """(outputs, k) int64, places in the flattened stream that the head reads; None where each
    example has one output."""
    lengths: tuple[int, ...] | None
    """Tokens of each example, if packed."""
    shared: int
    """Number of tokens that all examples begin with and only the first has in the row; usually
    0."""
    positions: Tensor | None
    """(1, tokens) int64, place of each token in its example, if packed."""
    examples: Examples
    indices: tuple[int, ...]
    """Indices of the batch's examples."""

    @property
    def input_ids(self) -> Tensor:
        """Token ids of the only stream, or of the encoder's."""
        return self.inputs["input_ids"]

    @property
    def num_padded_tokens(self) -> int:
        """Tokens that the model reads, padding included, in all streams."""
        decoder = self.inputs.get(DECODER)
        return self.input_ids.numel() + (0 if decoder is None else decoder.numel())

    @property
    def read_width(self) -> int:
        """Tokens of a row in the stream that the head reads."""
        return self.inputs.get(DECODER, self.input_ids).shape[1]

    def units(self) -> Tensor:
        """(examples,) int64, the number of each example's unit."""
        units = self.examples.units
        numbers = np.array(self.indices) if units is None else units[list(self.indices)]
        return torch.from_numpy(numbers).to(self.weights.device)

    def column(self, name: str) -> Tensor:
        """One of the examples' columns, (outputs, ...) of the batch."""
        column = self.examples.columns[name]
        assert not isinstance(column, Ragged)
        return _of_outputs(column, self.examples, self.indices).to(self.weights.device)

    def example_of_tokens(self) -> Tensor:
        """As `input_ids`: the batch's example of each token, from 0; -1 for padding."""
        if self.lengths is None:
            rows = torch.arange(len(self.input_ids), device=self.input_ids.device)[:, None]
            return torch.where(self.inputs["attention_mask"].bool(), rows, -1)
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
        """(examples,) int64, places of the first tokens in a packed row; one place if shared."""
        starts = self.ends + 1 - torch.tensor(self.lengths, device=self.input_ids.device)
        return torch.zeros_like(starts) if self.shared else starts


def collate(
    examples: Examples, indices: Sequence[int], pad_token_id: int, layout: Layout = "padded"
) -> Batch:
    """Examples padded on the right to the longest of them, or packed.

    Without indices: the first example with weight 0, for a process that has none in this step.
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
    """The batch with all tensors on a device."""
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
    """A column's entries for the outputs of these examples."""
    parts = [column[examples.outputs_of(index)] for index in chosen]
    return torch.from_numpy(np.concatenate(parts))


def _read_at(
    examples: Examples, chosen: Sequence[int], rows: Sequence[Array], packed: bool, shared: int
) -> Tensor | None:
    """(outputs, k), places in the flattened stream.

    Args:
        rows: the examples' tokens in the stream that the head reads.
    """
    if examples.read_at is None:
        return None
    lengths = [len(row) for row in rows]
    starts = np.arange(len(rows)) * max(lengths)
    if packed:  # in one row, where only the first example has the shared tokens
        starts = np.cumsum([0, *lengths[:-1]]) - shared * np.arange(len(rows))
    places = [
        examples.read_at[index].astype(np.int64) + start
        for index, start in zip(chosen, starts, strict=True)
    ]
    return torch.from_numpy(np.concatenate(places))


def _join(rows: Sequence[Array], value: int, layout: Layout, shared: int = 0) -> Tensor:
    """(rows, width), padded with a value; if packed (1, tokens), with shared tokens once."""
    if layout != "padded":
        return torch.from_numpy(np.concatenate([rows[0], *(row[shared:] for row in rows[1:])]))[
            None
        ]
    filled = np.full((len(rows), max(map(len, rows))), value, rows[0].dtype)
    for place, row in zip(filled, rows, strict=True):
        place[: len(row)] = row
    return torch.from_numpy(filled)
