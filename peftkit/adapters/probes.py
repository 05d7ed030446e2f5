"""Probes: what a model answers to made-up inputs, to prove that another one is the same.

A probe is a synthetic token sequence (never training data) with the largest logits at the last
position. They are taken from the model in memory after training and compared with the model that
is loaded from disk.
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
"""On max |difference| / max(1, max |logit|); int8 has its own."""
TOLERANCE_INT8 = 2e-2


TOLERANCE_MERGED = 5e-2
"""Where bfloat16 or int8 rounds, merged weights are rounded once more, and the largest difference
is looked for at every position: 4e-2 is the most that docs/matrix.md found."""


@dataclass(frozen=True)
class Probe:
    """One synthetic input and the answer to it."""

    input_ids: tuple[int, ...]
    indices: tuple[int, ...]
    """Of the largest logits, at most 64, largest first."""
    logits: tuple[float, ...]
    tolerance: float


def tolerance(base: Base) -> float:
    """What two computations of the same model on this machine may differ by."""
    if base.quantization == "int8":
        return TOLERANCE_INT8
    return TOLERANCE[compute_dtype(base)]


def merged_tolerance(base: Base) -> float:
    """What a model that the adapter is folded into may differ by from the adapter on its base."""
    found = tolerance(base)
    return found if found == TOLERANCE[torch.float32] else TOLERANCE_MERGED


def take_probes(
    model: nn.Module, vocabulary: int, added_ids: tuple[int, ...], tolerance: float
) -> tuple[Probe, ...]:
    """Answers of a model to the fixed synthetic inputs.

    Args:
        vocabulary: token ids below this are used.
        added_ids: tokens of which one probe is made, if there are any.
        tolerance: of the computation that gives them.
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
    """The token ids of the fixed probes; arguments as for `take_probes`."""
    random = np.random.default_rng(0)
    inputs = [
        tuple(random.integers(vocabulary // 10, vocabulary, size=length).tolist())
        for length in LENGTHS
    ]
    if added_ids:
        inputs.append(added_ids[: LENGTHS[-1]])
    if config.is_encoder_decoder and config.eos_token_id is not None:  # its classifiers read there
        inputs = [(*ids, config.eos_token_id) for ids in inputs]
    return tuple(inputs)


LOADED = (
    "the loaded model answers differently from the one that was trained",
    "the base, the adapter file or a library is not the one of the training",
)
"""What is wrong where answers differ, and a hint: of a model with its adapter, of a merged one."""
MERGED = (
    "the merged model answers differently from the adapter on its base",
    "`peftkit verify` tells whether that answers as it was trained; if it does, keep it unmerged",
)


def compare_probes(
    model: nn.Module, probes: Sequence[Probe], here: float, told: tuple[str, str] = LOADED
) -> float:
    """The largest difference to the recorded answers, relative to their scale.

    Args:
        here: tolerance of this machine; the looser of it and the recorded one counts.
        told: what is wrong where they differ, and a hint.

    Raises:
        AdapterError: it is past a probe's tolerance: this is not the model that was trained.
    """
    largest = 0.0
    for probe in probes:
        difference = distance(model, [probe])
        allowed = max(here, probe.tolerance)
        if not difference <= allowed:
            raise AdapterError(
                f"{told[0]}: its logits are off by {difference:.2g} of their scale "
                f"(tolerance {allowed:.0e})",
                told[1],
            )
        largest = max(largest, difference)
    return largest


def distance(model: nn.Module, probes: Sequence[Probe]) -> float:
    """The largest difference of a model's answers to the recorded ones, relative to their scale."""
    largest = 0.0
    for probe in probes:
        recorded = torch.tensor(probe.logits)
        found = _last_logits(model, probe.input_ids)[list(probe.indices)]
        scale = max(1.0, float(recorded.abs().max()))
        difference = float((found - recorded).abs().max()) / scale
        largest = difference if not difference <= largest else largest  # NaN counts as the largest
    return largest


def _last_logits(model: nn.Module, input_ids: Sequence[int]) -> torch.Tensor:
    """(classes or vocabulary,), at the last position, or for the text."""
    return outputs_of(model, input_ids)[-1]


def outputs_of(model: nn.Module, input_ids: Sequence[int]) -> torch.Tensor:
    """What the model puts out, float32 on CPU: (positions, vocabulary or classes), (1, classes) for
    the text, of question answering (positions, start and end), without a head (positions, hidden).
    """
    model.eval()
    device = next(model.parameters()).device
    ids = torch.tensor([input_ids], device=device)
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if _reads_a_decoder_text(model):
        first: int = _first_of_decoder(model)
        inputs["decoder_input_ids"] = torch.cat(
            [torch.full_like(ids[:, :1], first), ids[:, :-1]], 1
        )
    with torch.inference_mode():
        found = model(**inputs)
    if hasattr(found, "start_logits"):
        found = torch.stack([found.start_logits, found.end_logits], dim=-1)
    else:
        found = found.logits if hasattr(found, "logits") else found.last_hidden_state
    outputs: torch.Tensor = found[0] if found.dim() == 3 else found
    return outputs.float().cpu()


def _reads_a_decoder_text(model: Any) -> bool:
    """Whether the model must be told what its decoder reads; classifiers tell themselves."""
    base = model.get_base_model() if hasattr(model, "get_base_model") else model
    name = type(base).__name__
    return bool(base.config.is_encoder_decoder) and not name.endswith("Classification")


def _first_of_decoder(model: Any) -> int:
    names = ("decoder_start_token_id", "bos_token_id", "pad_token_id")
    ids = (getattr(model.config, name, None) for name in names)
    return int(next((n for n in ids if n is not None), 0))
