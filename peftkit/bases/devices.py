"""Chooses a run's devices and precision; measures and frees memory."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import weakref
from collections.abc import Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any

import psutil
import torch
from accelerate import Accelerator
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.weak import WeakIdKeyDictionary

from peftkit.bases.base import Base
from peftkit.bases.own_accelerator import OwnAccelerator
from peftkit.bases.packages import is_installed
from peftkit.bases.products import product_library
from peftkit.errors import MissingPackageError, RecipeError
from peftkit.wording import plural


def open_accelerator(base: Base, report_to: str = "none") -> Accelerator:
    """Makes an Accelerator for all available devices, with autocast if `compute_dtype` is bfloat16.

    Raises:
        MissingPackageError: the tracker is not installed. Accelerate would go on without it.
        RecipeError: Accelerate is configured to shard the model, which peftkit does not support.
    """
    check_tracker(report_to)
    accelerator = OwnAccelerator(
        compute_dtype(base),
        cpu=not torch.accelerator.is_available(),  # else processes on CPUs do not find each other
        log_with=None if report_to == "none" else report_to,
        project_dir=None if report_to == "none" else ".",
    )
    kind = str(accelerator.distributed_type.value)
    if kind not in ("NO", "MULTI_CPU", "MULTI_GPU"):
        raise RecipeError(
            f"Accelerate is configured for {kind}, and peftkit trains whole models only",
            "choose one GPU, or several without sharding, in `accelerate config`",
        )
    return accelerator


def check_tracker(report_to: str) -> None:
    """Raises MissingPackageError if the tracker is not installed."""
    if report_to != "none" and not is_installed(report_to):
        raise MissingPackageError(
            f'`training.report_to` is "{report_to}", which is not installed',
            f"pip install {report_to}",
        )


def compute_dtype(base: Base) -> torch.dtype:
    """Dtype of the computation: `base.dtype`. `auto` is bfloat16 on GPUs that compute in bfloat16
    without emulating it, and float32 on all other devices. On CPU, bfloat16 is 5-8 times slower.
    """
    if base.dtype != "auto":
        return torch.float32 if base.dtype == "float32" else torch.bfloat16
    has_bf16 = torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return torch.bfloat16 if has_bf16 else torch.float32


def weights_dtype(base: Base, trains_base_weights: bool) -> torch.dtype:
    """Dtype of the base's weights: float32 if they are trained, `compute_dtype` if frozen."""
    return torch.float32 if trains_base_weights else compute_dtype(base)


def peak_memory_mb(device: torch.device) -> float:
    """Peak memory so far, in MB: allocated memory on GPU, resident memory of the process on CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**20
    if sys.platform == "win32":
        return float(psutil.Process().memory_info().peak_wset / 2**20)
    import resource

    status = Path("/proc/self/status")
    if status.is_file():  # Linux; its `ru_maxrss` starts at the parent process's
        [line] = [line for line in status.read_text().splitlines() if line.startswith("VmHWM:")]
        return float(line.split()[1]) / 2**10
    resident = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return resident / (2**20 if sys.platform == "darwin" else 2**10)


def reset_peak(device: torch.device) -> None:
    """Resets the peak of `peak_memory_mb` to current use, if the system supports it."""
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    elif sys.platform == "linux":
        with contextlib.suppress(OSError):
            Path("/proc/self/clear_refs").write_text("5")


_FROZEN = ContextVar("_FROZEN", default=False)
"""Whether `frozen_gc` is active."""


@contextlib.contextmanager
def frozen_gc() -> Iterator[None]:
    """Freezes existing objects so that garbage collections inside the block skip them. With all
    libraries imported, a collection takes 1/3 s, and a run makes six collections. A nested block
    has no effect.
    """
    if _FROZEN.get():
        yield
        return
    gc.collect()
    gc.freeze()
    outside = _FROZEN.set(True)
    try:
        yield
    finally:
        _FROZEN.reset(outside)
        gc.unfreeze()


def release_memory() -> None:
    """Frees unreferenced cycles and the GPU's cache, and returns unused heap pages to the system.
    With glibc, these pages are 370 MB after a model with 135M parameters is quantized.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)  # musl lacks it
        if trim is not None:
            trim(0)


def is_out_of_memory(error: Exception) -> bool:
    """Whether an error means that torch ran out of memory, on GPU or CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def rng_devices(device: torch.device) -> list[torch.device]:
    """Devices to pass to `torch.random.fork_rng`: `device` if it is a GPU; none if it is the CPU,
    whose generator is always forked.
    """
    return [device] if device.type == "cuda" else []


def resident_mb() -> float:
    """Resident memory of this process now, in MB."""
    return float(psutil.Process().memory_info().rss / 2**20)


class LiveMemory(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes of the tensors that are made inside the block and not yet freed."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = self.peak = 0
        self._seen: Any = WeakIdKeyDictionary()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(out):
            if isinstance(tensor, torch.Tensor):
                self._count(tensor.untyped_storage())
        return out

    def _count(self, storage: Any) -> None:
        if storage not in self._seen:
            self._seen[storage] = True
            self.now += storage.nbytes()
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._free, storage.nbytes())

    def _free(self, size: int) -> None:
        self.now -= size


def device_name(device: torch.device) -> str:
    """The name of a GPU, or `cpu` with its number of threads, and with the library of its products
    if that is not torch's default.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    threads = plural(torch.get_num_threads(), "thread")
    library = product_library()
    return f"{device.type}, {threads}" + (f", {library}" if library else "")
