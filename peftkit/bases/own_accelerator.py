"""An Accelerator with its own precision.

Accelerate keeps one precision and one number of accumulated steps per process. But a notebook can
load adapters in several precisions, and use another Accelerator for other training.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState
from accelerate.utils import GradientAccumulationPlugin
from torch import Tensor


class OwnAccelerator(Accelerator):  # type: ignore[misc]
    """An Accelerator with its own autocast; other Accelerators in the process stay unchanged.

    Args:
        dtype: float32, or bfloat16 for autocast.
        options: further arguments of `Accelerator`.
    """

    def __init__(self, dtype: torch.dtype, **options: Any) -> None:
        others = AcceleratorState._shared_state != {}
        steps = GradientState().plugin_kwargs or {
            "num_steps": 1
        }  # the process keeps its number; `backward` does not use it
        super().__init__(
            mixed_precision=None if others else "no",
            gradient_accumulation_plugin=GradientAccumulationPlugin(**steps),
            **options,
        )
        self.native_amp, self.scaler = False, None
        name = "bf16" if dtype == torch.bfloat16 else "no"
        self.state.__dict__ = {**self.state.__dict__, "_mixed_precision": name}
        if not others:
            AcceleratorState._reset_state()

    @contextlib.contextmanager
    def autocast(self, autocast_handler: None = None) -> Iterator[None]:
        """A context in which matrix products are computed in this Accelerator's precision."""
        if self.mixed_precision == "no":
            yield
            return
        with torch.autocast(self.device.type, torch.bfloat16):
            yield

    def backward(self, loss: Tensor, **options: Any) -> None:
        """Backpropagates a loss without dividing it by the number of accumulated steps."""
        loss.backward(**options)  # type: ignore[no-untyped-call]
