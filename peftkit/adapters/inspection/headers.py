"""Reads the header of a safetensors file; reads no tensors and imports no torch.

    8 bytes      n, the header's length, little-endian
    n bytes      JSON: name -> {dtype, shape, data_offsets}, and `__metadata__`
    the rest     the tensors, without gaps

https://github.com/huggingface/safetensors
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peftkit.errors import AdapterError
from peftkit.parts.json_values import unrepeated

LONGEST = 8 * 2**20
"""Largest allowed header, in bytes; the largest models' headers have less than one million."""
LONGEST_NAME = 512
MOST_DIMENSIONS = 16
BYTES = {
    "F64": 8, "I64": 8, "U64": 8, "F32": 4, "I32": 4, "U32": 4, "F16": 2, "BF16": 2, "I16": 2,
    "U16": 2, "F8_E4M3": 1, "F8_E5M2": 1, "I8": 1, "U8": 1, "BOOL": 1,
}  # fmt: skip


@dataclass(frozen=True)
class Stored:
    """A tensor in a safetensors file, as the header describes it."""

    dtype: str
    shape: tuple[int, ...]
    begin: int
    """Position of the tensor's first byte in the file."""
    end: int
    """Position after the tensor's last byte."""


def read_header(file: Path) -> dict[str, Stored]:
    """Returns tensor name -> tensor from the header; checks that tensors fill the file exactly.

    Raises:
        AdapterError: the file is cut off, damaged, or has an impossible header.
    """
    try:
        return _read(file)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(file, f"its header cannot be read: {error}") from error


def _read(file: Path) -> dict[str, Stored]:
    size = file.stat().st_size
    with file.open("rb") as opened:
        length = int.from_bytes(opened.read(8), "little")
        if size < 8 or length > size - 8:
            raise _damaged(
                file, f"it claims a header of {length:,} bytes, and the file has {size:,}"
            )
        if length > LONGEST:
            raise _damaged(file, f"its header has {length:,} bytes; at most {LONGEST:,} are read")
        text = opened.read(length)
    header = json.loads(text, object_pairs_hook=unrepeated)
    if not isinstance(header, dict):
        raise ValueError(f"its JSON is of type {type(header).__name__}, not an object")
    header.pop("__metadata__", None)
    tensors = {name: _stored(file, name, value, 8 + length) for name, value in header.items()}
    at = 8 + length
    for name, tensor in sorted(tensors.items(), key=lambda item: (item[1].begin, item[1].end)):
        if tensor.begin != at:
            raise _damaged(file, f"`{name!s}` begins at byte {tensor.begin:,}, not at {at:,}")
        at = tensor.end
    if at != size:
        raise _damaged(file, f"it has {size:,} bytes, and its tensors end at {at:,}")
    return tensors


def _stored(file: Path, name: str, value: dict[str, Any], offset: int) -> Stored:
    if not name or len(name) > LONGEST_NAME or not name.isprintable() or set(name) & set("/\\"):
        raise _damaged(file, f"{name[:LONGEST_NAME]!r} is no name for a tensor")
    dtype, shape, (begin, end) = value["dtype"], value["shape"], value["data_offsets"]
    if dtype not in BYTES:
        raise _damaged(file, f"`{name}` has the dtype {dtype!r}")
    numbers = (*shape, begin, end)
    if (
        type(shape) is not list
        or len(shape) > MOST_DIMENSIONS
        or not all(type(n) is int and 0 <= n < 2**63 for n in numbers)
    ):
        raise _damaged(file, f"`{name}` has the shape {str(shape)[:60]}")
    if math.prod(shape) * BYTES[dtype] != end - begin:
        raise _damaged(file, f"`{name}` of shape {shape} does not fill bytes {begin} to {end}")
    return Stored(dtype, tuple(shape), offset + begin, offset + end)


def _damaged(file: Path, why: str) -> AdapterError:
    return AdapterError(f"`{file.name}` is damaged: {why}", "copy or download it again")
