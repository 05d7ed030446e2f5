"""Runs a model over a split and lets the task judge it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object

from peftkit.data.encoded import IGNORE_INDEX, Examples, Head
from peftkit.errors import TrainingError
from peftkit.tasks.task import Reads, Score, Task
from peftkit.training.forward.batching import inference_batches, row_tokens
from peftkit.training.forward.collating import collate, to_device
from peftkit.training.forward.reading import Reader


def evaluate(
    reader: Reader,
    examples: Examples,
    head: Head,
    task: Task,
    pad_token_id: int,
    micro_batch_tokens: int,
    accelerator: Accelerator,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """The task's score of a model on a split, with `loss` among the metrics.

    Raises:
        TrainingError: the model puts out NaN or infinity.
    """
    outputs, loss = run_model(
        reader, examples, task, pad_token_id, micro_batch_tokens, accelerator, progress=progress
    )
    score = task.metrics(outputs, examples, head)
    return replace(score, metrics={**score.metrics, "loss": loss})


def run_model(
    reader: Reader,
    examples: Examples,
    task: Task,
    pad_token_id: int,
    micro_batch_tokens: int,
    accelerator: Accelerator,
    keep: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    progress: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], float]:
    """What the task keeps of the outputs at the positions that it reads, (targets, ...) in the
    examples' order; and the mean loss, unweighted and without label smoothing, so that it compares
    between recipes.

    Every process takes its share of the batches and gets all outputs.

    Args:
        keep: (outputs, targets) -> what is kept of a batch, if not what the task needs.
        progress: called with the number of examples that were run, by all processes, again and
            again.
    """
    keep = keep or task.keep
    reader.model.eval()
    on_cpu = accelerator.device.type == "cpu"
    tokens = row_tokens(micro_batch_tokens, reader.layout, on_cpu, reader.config)
    batches = list(inference_batches(examples, tokens, reader.layout))
    found: list[tuple[int, Any]] = []
    broken: list[int] = []
    sums = torch.zeros(2, dtype=torch.float64)  # of losses, of targets
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    with torch.inference_mode(), accelerator.autocast():
        for indices in mine:
            batch = collate(examples, indices, task.reads, pad_token_id, reader.layout)
            batch = to_device(batch, accelerator.device)
            finite, kept = [], []
            with reader.ready(batch) as given:
                for part, raw in reader.outputs(given):
                    outputs, targets = raw.float(), batch.targets[part]
                    finite.append(torch.isfinite(outputs).all(dim=-1).cpu())
                    ones = torch.ones_like(batch.weights[part])
                    loss = task.loss(outputs, targets, ones, 0.0)
                    sums += torch.stack((loss, task.count(targets, ones))).cpu()
                    kept.append(keep(outputs, targets).cpu())
            by_example = _by_example(torch.cat(finite), examples, indices, task.reads)
            broken += [index for index, right in by_example if not right.all()]
            found.extend(_by_example(torch.cat(kept), examples, indices, task.reads))
            if progress:
                progress(len(indices) * accelerator.num_processes)
    if accelerator.num_processes > 1:
        found, broken = gather_object(found), gather_object(broken)
        sums = sum(gather_object([sums]))
    if broken:
        raise TrainingError(
            f"the model puts out NaN or infinity for row {examples.rows[min(broken)].number}, or "
            "for one that was computed with it",
            "before training: the base is damaged, or needs `--base.dtype float32`; "
            "later: lower `training.learning_rate`",
        )
    found.sort(key=lambda item: item[0])
    return np.concatenate([kept for _, kept in found]), float(sums[0] / sums[1].clamp(min=1))


def _by_example(
    outputs: torch.Tensor, examples: Examples, indices: tuple[int, ...], reads: Reads
) -> list[tuple[int, npt.NDArray[Any]]]:
    """Outputs of one batch cut at the examples' borders, (targets of the example, ...) each."""
    if reads in ("first", "last"):
        sizes = [1] * len(indices)
    else:
        sizes = [int((examples.targets[index] != IGNORE_INDEX).sum()) for index in indices]
    parts = np.split(outputs.numpy(), np.cumsum(sizes)[:-1])
    return list(zip(indices, parts, strict=True))
