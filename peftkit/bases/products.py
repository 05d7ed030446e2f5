"""Matrix products in float32 on a CPU, by the faster of the two libraries that torch holds.

torch multiplies with MKL, which does not use the AVX-512 units of AMD's processors. oneDNN uses
them. One thread of an EPYC of family 26, (900, 384) by (384, 1544): 217 instead of 100 GFLOP/s;
relative error 3.5e-7 instead of 2.5e-7. On the generation before it, 10 to 13 % faster.

The library is chosen by the processor and not by a timing, so that a run repeats bit for bit.
"""

from __future__ import annotations

import contextlib
import os
import platform
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

FEWEST_ROWS = 8
"""Products with fewer rows only read the matrix once; both libraries take equally long."""
SMALLEST = 2**21
"""Smallest number of multiplications for which oneDNN is called."""
SMALL_CACHES = {"ONEDNN_PRIMITIVE_CACHE_CAPACITY": "32", "LRU_CACHE_CAPACITY": "16"}
"""Environment variables with the number of kernels that oneDNN and torch keep. Each size of a batch
has kernels of its own: with the usual number, 1,024, they take hundreds of MB, and are as fast."""
CPUINFO = Path("/proc/cpuinfo")

_in_use: list[Any] = []
"""The `torch.library.Library` that makes torch call oneDNN; empty if torch multiplies itself."""


def use_fast_products() -> None:
    """Makes torch multiply with oneDNN until the process ends, if that is faster here."""
    if not _in_use and one_dnn_is_faster():
        _in_use.append(_registered())


@contextlib.contextmanager
def fast_products() -> Iterator[None]:
    """Makes torch multiply with oneDNN inside the block, if that is faster here."""
    before = len(_in_use)
    use_fast_products()
    try:
        yield
    finally:
        del _in_use[before:]


def product_library() -> str:
    """Returns the name of the library that multiplies large float32 matrices on the CPU now; empty
    for torch's default.
    """
    return "oneDNN" if _in_use else ""


def one_dnn_is_faster(cpuinfo: Path = CPUINFO) -> bool:
    """Returns whether oneDNN multiplies faster than torch's default library on this processor.

    Args:
        cpuinfo: the file in which Linux describes the processors.
    """
    return (
        torch.backends.mkl.is_available()  # type: ignore[no-untyped-call]
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and torch.backends.cpu.get_cpu_capability() == "AVX512"
        and _is_amd(cpuinfo)
    )


def _is_amd(cpuinfo: Path) -> bool:
    try:
        return "AuthenticAMD" in cpuinfo.read_text(errors="replace")[:4096]
    except OSError:  # not Linux
        return "AuthenticAMD" in platform.processor()


def _registered() -> Any:
    """Replaces torch's kernels of `mm` and `addmm` as long as the returned value is kept."""
    for name, number in SMALL_CACHES.items():
        os.environ.setdefault(name, number)  # oneDNN reads it at its first product
    library: Any = torch.library.Library("aten", "IMPL")  # type: ignore[no-untyped-call]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns that a kernel is replaced
        library.impl("mm", _mm, "CPU")
        library.impl("addmm", _addmm, "CPU")
    return library


def _mm(one: Tensor, two: Tensor) -> Tensor:
    """Computes `one @ two`."""
    if _suits(one, two):
        return _one_dnn(one, two, None)
    return torch.mm(one, two, out=one.new_empty(0))  # torch's own kernel


def _addmm(added: Tensor, one: Tensor, two: Tensor, *, beta: Any = 1, alpha: Any = 1) -> Tensor:
    """Computes `beta * added + alpha * one @ two`."""
    is_bias = added.shape == two.shape[1:] and added.dtype == one.dtype
    if is_bias and beta == alpha == 1 and _suits(one, two):
        return _one_dnn(one, two, added.contiguous())
    return torch.addmm(added, one, two, beta=beta, alpha=alpha, out=one.new_empty(0))


def _suits(one: Tensor, two: Tensor) -> bool:
    """Returns whether oneDNN is called for the product of two matrices. Where the second one has
    gaps in memory, oneDNN takes a thousand times as long.
    """
    if not one.dtype == two.dtype == torch.float32:
        return False
    (rows, inner), columns = one.shape, two.shape[1]
    return (
        rows >= FEWEST_ROWS
        and rows * inner * columns >= SMALLEST
        and inner == len(two)
        and (two.is_contiguous() or two.T.is_contiguous())
    )


def _one_dnn(one: Tensor, two: Tensor, bias: Tensor | None) -> Tensor:
    product: Tensor = torch.ops.mkldnn._linear_pointwise(one, two.T, bias, "none", [], "")
    return product
