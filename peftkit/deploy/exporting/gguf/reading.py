"""Reads written GGUF files and compares them with the model or adapter.

Reading shares no code with writing: it restores the order of the rows one by one, from the
definition of llama.cpp's rotary embedding.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from peftkit.deploy.exporting.gguf.families import Layout
from peftkit.deploy.exporting.gguf.writing import PlainValue
from peftkit.errors import AdapterError

if TYPE_CHECKING:
    from gguf import ReaderTensor

TOLERANCE = {"F32": 0.0, "F16": 2**-11, "Q8_0": 1 / 127}
"""Number format -> allowed |difference| in a tensor, relative to the tensor's largest number.
F16: half a unit in the last place. Q8_0: one step; the expected error is about half a step, from
rounding and the float16 scale."""
SMALLEST = 2**-24
"""Smallest positive float16 number."""


@dataclass(frozen=True)
class Contents:
    """A GGUF file's metadata and tensors; tensors stay on disk until they are read."""

    fields: dict[str, PlainValue]
    """The metadata, key -> value."""
    stored: dict[str, ReaderTensor]

    def kind(self, tensor: str) -> str:
        """Number format of a tensor: `F32`, `F16`, `Q8_0`, ..."""
        return str(self.stored[tensor].tensor_type.name)

    def number(self, key: str) -> float:
        """A number from the metadata.

        Raises:
            AdapterError: the key is missing or not a number.
        """
        value = self.fields.get(key)
        if isinstance(value, int | float):
            return value
        raise AdapterError(f"`{key}` in the metadata is {value!r:.80}, not a number")

    def values(self, tensor: str) -> npt.NDArray[np.float32]:
        """A tensor's dequantized values, with dimensions in torch's order."""
        import gguf

        stored = self.stored[tensor]
        values: npt.NDArray[np.float32] = gguf.dequantize(stored.data, stored.tensor_type)
        return values


def read_gguf(file: Path) -> Contents:
    """Reads a GGUF file.

    Raises:
        AdapterError: it is not a GGUF file.
    """
    reader = open_gguf(file)
    fields = {name: field.contents() for name, field in reader.fields.items()}
    return Contents(fields, {tensor.name: tensor for tensor in reader.tensors})


def open_gguf(file: Path) -> Any:
    """Opens a GGUF file with the gguf package's reader.

    Raises:
        AdapterError: it is not a GGUF file.
    """
    import gguf

    try:
        return gguf.GGUFReader(file)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise AdapterError(
            f"`{file}` cannot be read as a GGUF file: {error}", "copy or download it again"
        ) from error


def rows_of_transformers(rows: npt.NDArray[Any], heads: int) -> npt.NDArray[Any]:
    """Reorders a GGUF file's rows of q or k, (out, ...), to transformers' order.

    Frequency i rotates rows 2i and 2i + 1 of a head in llama.cpp, but rows i and i + d/2 in
    transformers. So row 2i becomes row i, and row 2i + 1 becomes row i + d/2.
    """
    back = np.empty_like(rows)
    width = len(rows) // heads
    for row in range(len(rows)):
        head, place = divmod(row, width)
        frequency, second = divmod(place, 2)
        back[head * width + frequency + (width // 2 if second else 0)] = rows[row]
    return back


def compare(
    name: str,
    contents: Contents,
    tensor: str,
    expected: npt.NDArray[np.float32],
    layout: Layout,
    allowed: float = 0.0,
) -> float:
    """Compares a tensor with its expected values.

    Args:
        name: GGUF's name of the layer, which decides whether the tensor's rows are reordered.
        tensor: GGUF's name of the tensor.
        expected: the trained values, with rows in transformers' order.
        allowed: relative difference allowed in addition to `TOLERANCE`.

    Returns:
        The largest difference, relative to the largest expected number.

    Raises:
        AdapterError: the tensor is missing, has another shape, or differs by more than allowed.
    """
    if tensor not in contents.stored:
        raise AdapterError(f"`{tensor}` is not in the file that was written")
    values = contents.values(tensor)
    if values.shape != expected.shape:
        raise AdapterError(f"`{tensor}` has shape {values.shape}, not {expected.shape}")
    if heads := layout.heads(name):
        values = rows_of_transformers(values, heads)
    largest = float(np.abs(expected).max(initial=0.0))
    difference = float(np.abs(values - expected).max(initial=0.0))
    limit = largest * (allowed + TOLERANCE[contents.kind(tensor)])
    if contents.kind(tensor) != "F32":
        limit = max(limit, SMALLEST)
    if not difference <= limit:
        raise AdapterError(
            f"`{tensor}` in the written file differs from the trained values by {difference:.2g} "
            f"(tolerance {limit:.2g})"
        )
    return difference / largest if largest else 0.0


def check_fields(contents: Contents, expected: Mapping[str, PlainValue]) -> None:
    """Raises AdapterError unless a file's metadata has the expected values."""
    wrong = [
        f"`{key}` is {contents.fields.get(key)!r:.80}, not {value!r:.80}"
        for key, value in expected.items()
        if not _same(contents.fields.get(key), value)
    ]
    if wrong:
        raise AdapterError(f"the metadata that was written is wrong: {'; '.join(wrong)}")


def _same(value: object, expected: object) -> bool:
    if isinstance(expected, float) and isinstance(value, float):
        return bool(np.float32(value) == np.float32(expected))
    return bool(value == expected)
