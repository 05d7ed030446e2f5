"""Probes: recorded answers to synthetic inputs, to check that a loaded model is the trained one.

A probe holds synthetic token ids (never training data) and the largest logits at the last position.
Probes are taken from the model in memory after training, and compared with the model loaded from
disk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from peftkit.bases.base import Base
from peftkit.bases.devices import compute_dtype
from peftkit.errors import AdapterError

LENGTHS = (5, 12, 24, 48)
TOP = 64
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2, torch.float16: 1e-2}
"""Dtype of the computation -> largest allowed max |difference| / max(1, max |logit|)."""
TOLERANCE_INT8 = 2e-2

TOLERANCE_MERGED = 5e-2
"""Largest allowed relative difference for merged models, except in float32. Merging rounds the
weights again, and all positions are compared. The largest difference in docs/matrix.md is 4e-2."""


@dataclass(frozen=True)
class Probe:
    """One synthetic input and the model's answer."""

    input_ids: tuple[int, ...]
    indices: tuple[int, ...]
    """Indices of the 64 largest logits (or of all, if there are fewer), largest first."""
    logits: tuple[float, ...]
    tolerance: float


def tolerance(base: Base) -> float:
    """The allowed relative difference between two computations of one model on this machine."""
    if base.quantization == "int8":
        return TOLERANCE_INT8
    return TOLERANCE[compute_dtype(base)]


def merged_tolerance(base: Base) -> float:
    """The allowed relative difference between a merged model and the adapter on its base."""
    unmerged = tolerance(base)
    return unmerged if unmerged == TOLERANCE[torch.float32] else TOLERANCE_MERGED


def take_probes(
    model: nn.Module, vocabulary: int, added_ids: tuple[int, ...], tolerance: float
) -> tuple[Probe, ...]:
    """Records a model's answers to the fixed synthetic inputs.

    Args:
        vocabulary: the inputs use token ids below this number.
        added_ids: ids of added tokens, for one more probe; may be empty.
        tolerance: the allowed difference, recorded with each answer.
    """
    inputs = synthetic_inputs(model.config, vocabulary, added_ids)
    probes = []
    for ids in inputs:
        logits = _last_logits(model, ids)
        top = logits.topk(min(TOP, logits.numel()))
        probes.append(
            Probe(ids, tuple(top.indices.tolist()), tuple(top.values.tolist()), tolerance)
        )
    return tuple(probes)


def synthetic_inputs(
    config: Any, vocabulary: int, added_ids: tuple[int, ...]
) -> tuple[tuple[int, ...], ...]:
    """The synthetic inputs of `take_probes`, as token ids; equal arguments give equal ids."""
    random = np.random.default_rng(0)
    inputs = [
        tuple(random.integers(vocabulary // 10, vocabulary, size=length).tolist())
        for length in LENGTHS
    ]
    if added_ids:
        inputs.append(added_ids[: LENGTHS[-1]])
    if (
        config.is_encoder_decoder and config.eos_token_id is not None
    ):  # its classifiers read the hidden state at this token
        inputs = [(*ids, config.eos_token_id) for ids in inputs]
    return tuple(inputs)


LOADED = (
    "the loaded model answers differently from the trained one",
    "the base, the adapter file or a library is not the one used in training",
)
"""Message and hint of the error for a loaded adapter that answers differently."""
MERGED = (
    "the merged model answers differently from the adapter on its base",
    "check the adapter with `peftkit verify`; if it passes, keep it unmerged",
)
"""Message and hint of the error for a merged model that answers differently."""


def compare_probes(
    model: nn.Module, probes: Sequence[Probe], tolerance: float, problem: tuple[str, str] = LOADED
) -> float:
    """Compares a model's answers with probes; returns the largest relative difference.

    Args:
        tolerance: the allowed difference; a probe's own tolerance applies if it is larger.
        problem: message and hint of the error.

    Raises:
        AdapterError: a difference exceeds the tolerance, so the model is not the trained one.
    """
    largest = 0.0
    for probe in probes:
        difference = distance(model, [probe])
        allowed = max(tolerance, probe.tolerance)
        if not difference <= allowed:
            raise AdapterError(
                f"{problem[0]}: its logits are off by {difference:.2g} of their scale "
                f"(tolerance {allowed:.0e})",
                problem[1],
            )
        largest = max(largest, difference)
    return largest


def distance(model: nn.Module, probes: Sequence[Probe]) -> float:
    """The largest relative difference between a model's answers and probes; raises no error."""
    largest = 0.0
    for probe in probes:
        recorded = torch.tensor(probe.logits)
        logits = _last_logits(model, probe.input_ids)[list(probe.indices)]
        scale = max(1.0, float(recorded.abs().max()))
        difference = float((logits - recorded).abs().max()) / scale
        largest = difference if not difference <= largest else largest  # NaN counts as the largest
    return largest


def _last_logits(model: nn.Module, input_ids: Sequence[int]) -> torch.Tensor:
    """Logits of a text classifier, (classes,); logits of other models at the last position."""
    return outputs_of(model, input_ids)[-1]


def outputs_of(model: nn.Module, input_ids: Sequence[int]) -> torch.Tensor:
    """The model's outputs for one input, float32 on CPU.

    Shapes: (positions, vocabulary) from a language model, (positions, classes) from a token
    classifier, (1, classes) from a text classifier, (positions, 2) from question answering,
    (positions, hidden) without a head.
    """
    model.eval()
    device = next(model.parameters()).device
    ids = torch.tensor([input_ids], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if _needs_decoder_inputs(model):
        first: int = _decoder_start(model)
        inputs["decoder_input_ids"] = torch.cat(
            [torch.full_like(ids[:, :1], first), ids[:, :-1]], 1
        )
    with torch.inference_mode():
        out = model(**inputs)
    if hasattr(out, "start_logits"):
        out = torch.stack([out.start_logits, out.end_logits], dim=-1)
    else:
        out = out.logits if hasattr(out, "logits") else out.last_hidden_state
    outputs: torch.Tensor = out[0] if out.dim() == 3 else out
    return outputs.float().cpu()


def _needs_decoder_inputs(model: Any) -> bool:
    """Whether a model needs `decoder_input_ids`; encoder-decoder classifiers make their own."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    return bool(base.config.is_encoder_decoder) and not name.endswith("Classification")


def _decoder_start(model: Any) -> int:
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    ids = (getattr(model.config, name, None) for name in names)
    return int(next((n for n in ids if n is not None), 0))
