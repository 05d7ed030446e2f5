"""Stores arrays of different lengths as one long array and their offsets in it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Ragged:
    """A column of arrays of different lengths. `values` may be memory-mapped from a file."""

    values: Array
    """(total, ...), the entries of all arrays, one array after another."""
    offsets: npt.NDArray[np.int64]
    """(arrays + 1,), index in `values` at which each array begins; the last item is the total."""

    @classmethod
    def of(cls, arrays: Iterable[Any], dtype: Any = np.int32, width: int | None = None) -> Ragged:
        """Makes a column from arrays or from lists of numbers.

        Args:
            width: numbers in each entry; None if an entry is one number.
        """
        shape = (-1,) if width is None else (-1, width)
        parts = [np.asarray(array, dtype).reshape(shape) for array in arrays]
        empty = np.zeros((0,) if width is None else (0, width), dtype)
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return cls(np.concatenate([empty, *parts]), offsets)

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> Array:
        if index < 0:
            index += len(self)
        if not 0 <= index < len(self):
            raise IndexError(index)
        return self.values[self.offsets[index] : self.offsets[index + 1]]

    def __iter__(self) -> Iterator[Array]:
        return (self[index] for index in range(len(self)))

    @property
    def lengths(self) -> npt.NDArray[np.int64]:
        """(arrays,), the length of each array."""
        return np.diff(self.offsets)

    def span(self, index: int) -> slice:
        """Returns the slice of `values` that is the array at `index`."""
        return slice(int(self.offsets[index]), int(self.offsets[index + 1]))

    def chosen(self, indices: Sequence[int]) -> Ragged:
        """Returns a column of the arrays at `indices`, in this order."""
        parts = [self[index] for index in indices]
        offsets = np.cumsum([0, *map(len, parts)], dtype=np.int64)
        return Ragged(np.concatenate([self.values[:0], *parts]), offsets)
