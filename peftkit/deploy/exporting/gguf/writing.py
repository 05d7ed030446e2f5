"""Writes GGUF files, one tensor at a time."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

BLOCK = 32
"""Count of numbers that share a scale in q8_0. A matrix is stored in float16 instead if its row
length is not a multiple of this count."""


PlainValue = str | bool | int | float | Sequence[str | int | float]
"""A metadata value. GGUF stores bools as their own type, not as ints."""


@dataclass(frozen=True)
class Copied:
    """A metadata value copied from another GGUF file, with its GGUF types."""

    value: PlainValue
    kind: Any
    element_kind: Any = None
    """GGUF type of the elements, if the value is a list."""


Value = PlainValue | Copied


def values_of(fields: Mapping[str, Value]) -> dict[str, PlainValue]:
    """The metadata as plain values; drops the GGUF types of copied values."""
    return {name: v.value if isinstance(v, Copied) else v for name, v in fields.items()}


def write_gguf(
    file: Path,
    architecture: str,
    fields: Mapping[str, Value],
    tensors: Mapping[str, npt.NDArray[np.float32]],
    kind: str,
) -> None:
    """Writes a GGUF file; holds one tensor at a time in memory.

    Args:
        fields: the metadata. Ints are stored as uint32, or int32 in lists; floats as float32.
        tensors: name and float32 values of each tensor, with dimensions in torch's order.
        kind: number format of the matrices: `f32`, `f16` or `q8_0`. Vectors are float32.
    """
    import gguf

    writer = gguf.GGUFWriter(file, architecture)
    kinds = {
        name: gguf.GGMLQuantizationType[_kind_of(values, kind).upper()]
        for name, values in tensors.items()
    }
    try:
        for key, value in fields.items():
            _add(writer, key, value)
        for name, values in tensors.items():
            _announce(writer, name, values.shape, kinds[name])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for name, values in tensors.items():
            writer.write_tensor_data(gguf.quantize(values, kinds[name]))
    finally:
        writer.close()


def _announce(writer: Any, name: str, shape: tuple[int, ...], kind: Any) -> None:
    """Adds a tensor's name, shape and format to the file's header; writes no values."""
    import gguf

    block, size = gguf.GGML_QUANT_SIZES[kind]
    dtype = {"F32": np.float32, "F16": np.float16}.get(kind.name, np.uint8)
    stored = shape if block == 1 else (*shape[:-1], shape[-1] // block * size)
    num_bytes = math.prod(shape) // block * size
    writer.add_tensor_info(name, stored, np.dtype(dtype), num_bytes, raw_dtype=kind)


def _kind_of(values: npt.NDArray[np.float32], kind: str) -> str:
    if values.ndim < 2:
        return "f32"
    return "f16" if kind == "q8_0" and values.shape[-1] % BLOCK else kind


def _add(writer: Any, key: str, value: Value) -> None:
    if isinstance(value, Copied):
        writer.add_key_value(key, value.value, value.kind, value.element_kind)
    elif isinstance(value, bool):
        writer.add_bool(key, value)
    elif isinstance(value, str):
        writer.add_string(key, value)
    elif isinstance(value, int):
        writer.add_uint32(key, value)
    elif isinstance(value, float):
        writer.add_float32(key, value)
    else:
        writer.add_array(key, value)
