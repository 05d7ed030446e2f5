"""Runs a model over a split and lets the task judge it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import nn

from peftkit.data.encoded import IGNORE_INDEX, Examples, Head
from peftkit.errors import TrainingError
from peftkit.tasks.task import Reads, Score, Task
from peftkit.training.batching import collate, forward, inference_batches, to_device


def evaluate(
    model: nn.Module,
    examples: Examples,
    head: Head,
    task: Task,
    pad_token_id: int,
    micro_batch_tokens: int,
    accelerator: Accelerator,
) -> Score:
    """The task's score of a model on a split, with `loss` among the metrics.

    Raises:
        TrainingError: the model puts out NaN or infinity.
    """
    outputs = run_model(model, examples, task, pad_token_id, micro_batch_tokens, accelerator)
    score = task.metrics(outputs, examples, head)
    return replace(score, metrics={**score.metrics, "loss": _mean_loss(outputs, examples, task)})


def run_model(
    model: nn.Module,
    examples: Examples,
    task: Task,
    pad_token_id: int,
    micro_batch_tokens: int,
    accelerator: Accelerator,
) -> npt.NDArray[np.float32]:
    """Outputs at the positions that the task reads, (targets, classes), in the examples' order.

    Every process takes its share of the batches and gets all outputs.
    """
    model.eval()
    batches = list(inference_batches(examples, micro_batch_tokens))
    found: list[tuple[int, Any]] = []
    mine = batches[accelerator.process_index :: accelerator.num_processes]
    with torch.inference_mode(), accelerator.autocast():
        for indices in mine:
            batch = collate(examples, indices, task.reads, pad_token_id)
            batch = to_device(batch, accelerator.device)
            outputs = forward(model, batch).float().cpu().numpy()
            found.extend(_by_example(outputs, examples, indices, task.reads))
    if accelerator.num_processes > 1:
        found = gather_object(found)
    found.sort(key=lambda item: item[0])
    joined: npt.NDArray[np.float32] = np.concatenate([outputs for _, outputs in found])
    if not np.isfinite(joined).all():
        broken = next(index for index, outputs in found if not np.isfinite(outputs).all())
        raise TrainingError(
            f"the model puts out NaN or infinity for row {examples.rows[broken].number}",
            "before training: the base is damaged, or needs `--base.dtype float32`; "
            "later: lower `training.learning_rate`",
        )
    return joined


def _by_example(
    outputs: npt.NDArray[np.float32], examples: Examples, indices: tuple[int, ...], reads: Reads
) -> list[tuple[int, npt.NDArray[np.float32]]]:
    """Outputs of one batch cut at the examples' borders, (targets of the example, classes) each."""
    if reads in ("first", "last"):
        sizes = [1] * len(indices)
    else:
        sizes = [int((examples.targets[index] != IGNORE_INDEX).sum()) for index in indices]
    return list(zip(indices, np.split(outputs, np.cumsum(sizes)[:-1]), strict=True))


def _mean_loss(outputs: npt.NDArray[np.float32], examples: Examples, task: Task) -> float:
    """Unweighted and without label smoothing, so that it compares between recipes."""
    targets = torch.from_numpy(np.concatenate(examples.targets))
    targets = targets[targets != IGNORE_INDEX]
    weights = torch.ones(len(targets))
    loss = task.loss(torch.from_numpy(outputs), targets, weights, 0.0)
    return float(loss / task.count(targets, weights))
