"""Holds examples as token ids of different lengths, without padding or batches."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt

from peftkit.data.head import Head
from peftkit.data.ragged import Array, Ragged
from peftkit.data.rows import Row

IGNORE_INDEX = -100
DIGEST_VERSION = 2
"""Version of `Encoded.sha256`; digests of different versions cannot be compared."""
START_VALUES = "start_values"
"""Name of the column with each output's loss before training."""
LEAST_SHARED = 8
"""Minimum length in tokens of a common prefix that is computed once for several examples."""


@dataclass(frozen=True)
class Examples:
    """One split as the model reads it. An example is a row, or one of the windows of a row."""

    rows: tuple[Row, ...]
    """The rows that the examples come from, each once, in the order of the examples."""
    inputs: Mapping[str, Ragged]
    """Name -> int32 values: `input_ids`, and `token_type_ids` or `decoder_input_ids` if needed."""
    targets: Array
    """(outputs, ...), the target of each output, example after example: a class, a token, a number,
    or 0 and 1 for each label or for start and end. `IGNORE_INDEX` marks an unknown class."""
    read_at: Ragged | None = None
    """(outputs, k) for each example: the token positions whose last hidden states give each output.
    Positions count from the example's first token in the stream that the head reads: the decoder's
    if there is one. None if each example has one output, which pooling computes."""
    weights: npt.NDArray[np.float32] | None = None
    """(outputs,), weight of each output in the loss; None if all weights are 1."""
    row_of: npt.NDArray[np.int64] | None = None
    """(examples,), index in `rows` of each example's row; None if each example is a row."""
    units: npt.NDArray[np.int64] | None = None
    """(examples,), id of the unit that each example belongs to. A unit counts as one in
    `batch_size`, and its examples are in one micro-batch. None if each example is its own unit."""
    columns: Mapping[str, Array | Ragged] = field(default_factory=dict)
    """Name -> column that the task reads, but the model does not. An array has one entry for each
    output, a `Ragged` one for each example."""
    truncated: int = 0
    """Number of examples that were cut to `max_length` tokens."""
    unsupervised: int = 0
    """Number of rows left out because none of their outputs counts in the loss."""
    too_long: int = 0
    """Number of rows left out because they were longer than `max_length`."""
    unknown_tokens: int = 0
    """Number of tokens that are the tokenizer's unknown token."""

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            wanted = len(self) if isinstance(column, Ragged) else len(self.targets)
            if len(column) != wanted:
                raise ValueError(f"column `{name}` has {len(column)} entries, not {wanted}")

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def input_ids(self) -> Ragged:
        """Token ids of the model's input; in an encoder-decoder, of the encoder's input."""
        return self.inputs["input_ids"]

    @cached_property
    def streams(self) -> npt.NDArray[np.int64]:
        """(examples, streams), number of tokens in each stream; batching uses nothing else."""
        both = [self.inputs.get(name) for name in ("input_ids", "decoder_input_ids")]
        return np.stack([stream.lengths for stream in both if stream is not None], axis=1)

    @cached_property
    def costs(self) -> npt.NDArray[np.int64]:
        """(examples,), number of tokens in all streams together."""
        costs: npt.NDArray[np.int64] = self.streams.sum(axis=1)
        return costs

    def cost(self, index: int) -> int:
        """Number of an example's tokens in all streams together."""
        return int(self.costs[index])

    def row(self, index: int) -> Row:
        """The row that an example comes from."""
        return self.rows[index if self.row_of is None else int(self.row_of[index])]

    @cached_property
    def num_units(self) -> int:
        """Number of units; `batch_size` counts units, which may have several examples."""
        return len(self) if self.units is None else len(np.unique(self.units))

    def by_unit(self, indices: Iterable[int]) -> list[tuple[int, ...]]:
        """Groups indices of examples by unit, in the order of each unit's first index."""
        if self.units is None:
            return [(index,) for index in indices]
        units: dict[int, list[int]] = {}
        for index in indices:
            units.setdefault(int(self.units[index]), []).append(index)
        return [tuple(members) for members in units.values()]

    def outputs_of(self, index: int) -> slice:
        """Returns the slice of `targets` that belongs to an example."""
        return slice(index, index + 1) if self.read_at is None else self.read_at.span(index)

    def outputs_per_row(self) -> npt.NDArray[np.int64]:
        """Returns the number of outputs in all examples of each row, (rows,)."""
        sizes = np.ones(len(self)) if self.read_at is None else self.read_at.lengths
        row_of = np.arange(len(self)) if self.row_of is None else self.row_of
        return np.bincount(row_of, sizes, len(self.rows)).astype(np.int64)

    @property
    def num_tokens(self) -> int:
        """Number of tokens in all examples, without padding."""
        return int(self.costs.sum())

    def tokens_of(self, indices: Iterable[int]) -> int:
        """Number of tokens in the examples at `indices`, without padding."""
        return int(sum(self.costs[index] for index in indices))

    def shared_tokens(self, indices: Sequence[int]) -> int:
        """Returns the length in tokens of a common prefix that no output reads, such as a system
        prompt; 0 if it is less than `LEAST_SHARED`. With causal attention, the prefix has the
        same hidden states in each example.
        """
        if len(indices) < 2 or len(self.inputs) > 1:
            return 0
        first = self.input_ids[indices[0]]
        shared = len(first)
        for index in indices:
            ids = self.input_ids[index]
            shared = max(0, min(shared, len(ids) - 1))
            shared = _first_true(ids[:shared] != first[:shared], shared)
            if self.read_at is not None and len(places := self.read_at[index]):
                shared = min(shared, int(places.min()))
        return shared if shared >= LEAST_SHARED else 0

    def chosen(self, indices: Sequence[int]) -> Examples:
        """Returns the examples at `indices`, in this order. Each has its own entry in `rows`.
        Counts such as `truncated` are 0.
        """
        spans = [self.outputs_of(index) for index in indices]

        def chosen_outputs(column: Array) -> Array:
            return np.concatenate([column[:0], *(column[span] for span in spans)])

        def chosen_column(column: Array | Ragged) -> Array | Ragged:
            if isinstance(column, Ragged):
                return column.chosen(indices)
            return chosen_outputs(column)

        return Examples(
            rows=tuple(self.row(index) for index in indices),
            inputs={name: column.chosen(indices) for name, column in self.inputs.items()},
            targets=chosen_outputs(self.targets),
            read_at=None if self.read_at is None else self.read_at.chosen(indices),
            weights=None if self.weights is None else chosen_outputs(self.weights),
            units=None if self.units is None else self.units[list(indices)],
            columns={name: chosen_column(column) for name, column in self.columns.items()},
        )

    def arrays(self) -> dict[str, Array]:
        """Returns name -> array for everything that the model and the loss read."""
        columns = {**self.inputs, "read_at": self.read_at, "targets": self.targets}
        columns |= {"weights": self.weights, "row_of": self.row_of, "units": self.units}
        arrays: dict[str, Array] = {}
        for name, column in columns.items():
            if isinstance(column, Ragged):
                arrays |= {name: column.values, f"{name} begin at": column.offsets}
            elif column is not None:
                arrays[name] = column
        return arrays

    @property
    def num_supervised(self) -> int:
        """Number of outputs that count in the loss."""
        known = self.targets != IGNORE_INDEX
        return int(known.any(axis=tuple(range(1, known.ndim))).sum())


@dataclass(frozen=True)
class Prompt:
    """The beginning of a row, for the model to continue."""

    row: int
    text: str
    """The prompt's text for reports; in a chat, only the user's messages."""
    expected: str
    """The row's own answer to the prompt, with which the model's answer is compared."""
    input_ids: npt.NDArray[np.int64]
    others: tuple[str, ...] = ()
    """Further right answers."""


@dataclass(frozen=True)
class Encoded:
    """All splits as the model reads them."""

    train: Examples
    validation: Examples
    test: Examples
    head: Head
    pad_token_id: int
    notes: tuple[str, ...] = field(default=())
    """Notes about the encoding, for the user."""
    prompts: tuple[Prompt, ...] = ()
    """Prompts of the test split, answered before and after training; empty if the task writes no
    texts."""
    validation_prompts: tuple[Prompt, ...] = ()
    """Prompts of the validation split, answered at each validation if the metric scores texts."""

    @property
    def sha256(self) -> str:
        """`VERSION:DIGEST`; the digest is the SHA-256 of everything that the model and the loss
        read from the splits.
        """
        digest = hashlib.sha256()
        for examples in self.splits().values():
            for name, values in examples.arrays().items():
                digest.update(f"{name} {values.dtype.str} {values.shape}|".encode())
                digest.update(values.tobytes())
        return f"{DIGEST_VERSION}:{digest.hexdigest()}"

    def with_column(self, name: str, values: Mapping[str, Array]) -> Encoded:
        """Returns a copy with another column in the examples of each split.

        Args:
            values: name of the split -> its column.
        """

        def added(split: str, examples: Examples) -> Examples:
            return replace(examples, columns={**examples.columns, name: values[split]})

        return replace(
            self,
            train=added("train", self.train),
            validation=added("validation", self.validation),
            test=added("test", self.test),
        )

    def splits(self) -> dict[str, Examples]:
        """Name of each split -> its examples."""
        return {"train": self.train, "validation": self.validation, "test": self.test}


def digest_version(sha256: str) -> int:
    """Returns the version in a digest from `Encoded.sha256`."""
    version, colon, _ = sha256.partition(":")  # the first version had no number
    return int(version) if colon and version.isdecimal() else 1


def _first_true(flags: npt.NDArray[np.bool_], otherwise: int) -> int:
    """Returns the index of the first true flag; `otherwise` if none is true."""
    return int(flags.argmax()) if flags.any() else otherwise
