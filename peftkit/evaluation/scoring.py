"""Runs a model on a split and computes the task's score."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from accelerate.utils import gather_object
from torch import Tensor

from peftkit.data.encoded import START_VALUES, Examples
from peftkit.data.head import Head
from peftkit.errors import TrainingError
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score
from peftkit.tasks.task import Task
from peftkit.training.forward.collating import Batch
from peftkit.training.forward.engine import Engine

REHEARSED = 8
"""Number of examples that `rehearsed_score` scores."""
Kept = npt.NDArray[np.float32]
"""(outputs, ...), the numbers that `Task.reduce_outputs` kept."""
Keep = Callable[[Tensor, Tensor], Tensor]
"""Function (outputs, targets) -> numbers to keep for each output, (outputs, ...)."""


def evaluate(
    engine: Engine,
    examples: Examples,
    task: Task,
    progress: Callable[[int], None] | None = None,
    decision: Decision | None = None,
) -> Score:
    """Scores a model on a split with the task's metrics, and with `loss` if it can be computed.

    Args:
        decision: thresholds or other numbers that turn outputs into answers, fitted by
            `Task.decide`; none by default.

    Raises:
        TrainingError: the model outputs NaN or infinity.
    """
    return _evaluate(engine, examples, task, progress, lambda _: decision or Decision())


def evaluate_and_decide(
    engine: Engine,
    examples: Examples,
    task: Task,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """Does the same as `evaluate` for the validation split, with the decision that `Task.decide`
    fits on it.
    """

    def decide(kept: Kept) -> Decision:
        return task.decide(kept, examples, engine.head) if task.decides else Decision()

    return _evaluate(engine, examples, task, progress, decide)


def _evaluate(
    engine: Engine,
    examples: Examples,
    task: Task,
    progress: Callable[[int], None] | None,
    decide: Callable[[Kept], Decision],
) -> Score:
    """The score of a model with the decision that `decide` returns for its kept outputs."""
    kept, loss = run_model(engine, examples, task.reduce_outputs, progress)
    decision = decide(kept)
    score = task.metrics(kept, examples, engine.head, decision)
    return replace(score, metrics={**score.metrics, **loss}, decision=decision)


def rehearsed_score(task: Task, examples: Examples, head: Head) -> Score:
    """Scores all-zero outputs for a few examples. The score shows, before the base is loaded, which
    metrics the task computes and which of these metrics have `parts`.
    """
    some = examples  # windows of a row, or examples of a unit, stay together: all are used
    if examples.row_of is None and examples.units is None:
        some = examples.chosen(range(min(REHEARSED, len(examples))))
    classes = head.num_outputs or int(some.targets.max(initial=0)) + 1
    outputs = torch.zeros(len(some.targets), 2 if head.output == "spans" else classes)
    kept = task.reduce_outputs(outputs, torch.from_numpy(some.targets))
    return task.metrics(kept.numpy(), some, head, Decision())


def run_model(
    engine: Engine,
    examples: Examples,
    keep: Keep,
    progress: Callable[[int], None] | None = None,
) -> tuple[npt.NDArray[np.float32], dict[str, float]]:
    """Runs a model on examples; computes numbers for each output, and the mean loss.

    Every process runs its share of the batches, and gets the results of all.

    Args:
        progress: called with the number of examples that all processes have run since the last
            call.

    Returns:
        The numbers that `keep` returns, (outputs, ...), in the order of the examples; and `loss`,
        the mean of the plain loss, by which recipes are compared. `loss` is missing if it compares
        with values from before training that are not in the examples.

    Raises:
        TrainingError: the model outputs NaN or infinity.
    """
    loss = engine.loss.plain()
    if loss.needs_start_values and START_VALUES not in examples.columns:
        return keep_outputs(engine, examples, keep, progress), {}
    sums = torch.zeros(2, dtype=torch.float64)  # of the losses, and of their divisors

    def with_loss(batch: Batch, outputs: Iterator[tuple[slice, Tensor]]) -> list[Tensor]:
        kept, values = [], []
        for part, raw in outputs:
            values.append(loss.values(raw.float(), batch.targets[part]))
            kept.append(keep(raw.float(), batch.targets[part]).cpu())
        sums[0] += loss.total(torch.cat(values), batch).cpu()
        sums[1] += loss.count(examples, batch.indices)
        return kept

    kept = _run(engine, examples, with_loss, progress)
    if engine.accelerator.num_processes > 1:
        sums = sum(gather_object([sums]))
    return kept, {"loss": float(sums[0] / sums[1].clamp(min=1))}


def keep_outputs(
    engine: Engine,
    examples: Examples,
    keep: Keep,
    progress: Callable[[int], None] | None = None,
) -> npt.NDArray[np.float32]:
    """Runs a model like `run_model`, but computes no loss, so that targets may be unknown."""

    def only(batch: Batch, outputs: Iterator[tuple[slice, Tensor]]) -> list[Tensor]:
        return [keep(raw.float(), batch.targets[part]).cpu() for part, raw in outputs]

    return _run(engine, examples, only, progress)


def start_values(engine: Engine, examples: Examples) -> npt.NDArray[np.float32]:
    """Computes each output's loss before training, (outputs,). Some losses compare with it.

    Call it right after injection.
    """
    loss = engine.loss.plain()

    def values(batch: Batch, outputs: Iterator[tuple[slice, Tensor]]) -> list[Tensor]:
        return [loss.values(raw.float(), batch.targets[part]).cpu() for part, raw in outputs]

    return _run(engine, examples, values, None)


def _run(
    engine: Engine,
    examples: Examples,
    keep: Callable[[Batch, Iterator[tuple[slice, Tensor]]], list[Tensor]],
    progress: Callable[[int], None] | None,
) -> npt.NDArray[np.float32]:
    """Runs a model on all batches; returns what `keep` returns, in the examples' order."""
    engine.model.eval()
    accelerator = engine.accelerator
    kept_of: list[tuple[int, Any]] = []
    broken: list[int] = []
    with torch.inference_mode(), accelerator.autocast():
        for indices in engine.own_batches(examples):
            batch = engine.batch(examples, indices)
            finite: list[Tensor] = []
            kept = keep(batch, _watch_finite(engine.outputs(batch), finite))
            spans = [examples.outputs_of(index) for index in indices]
            sizes = [span.stop - span.start for span in spans]
            broken += [i for i, good in _split(torch.cat(finite), indices, sizes) if not good.all()]
            kept_of.extend(_split(torch.cat(kept), indices, sizes))
            if progress:
                progress(len(indices) * accelerator.num_processes)
    if accelerator.num_processes > 1:
        kept_of, broken = gather_object(kept_of), gather_object(broken)
    if broken:
        raise TrainingError(
            f"the model outputs NaN or infinity for row {examples.row(min(broken)).number}, or "
            "for a row in the same batch",
            "before training: the base is damaged, or needs `--base.dtype float32`; "
            "later: lower `training.learning_rate`",
        )
    kept_of.sort(key=lambda item: item[0])
    return np.concatenate([kept for _, kept in kept_of])


def _watch_finite(
    outputs: Iterator[tuple[slice, Tensor]], finite: list[Tensor]
) -> Iterator[tuple[slice, Tensor]]:
    """Yields each output unchanged; appends to `finite` whether all numbers of the output are
    finite.
    """
    for part, raw in outputs:
        finite.append(torch.isfinite(raw).all(dim=-1).cpu())
        yield part, raw


def _split(
    outputs: Tensor, indices: tuple[int, ...], sizes: list[int]
) -> list[tuple[int, npt.NDArray[Any]]]:
    """Splits the outputs of one batch into (index, the example's outputs) for each example."""
    parts = np.split(outputs.numpy(), np.cumsum(sizes)[:-1])
    return list(zip(indices, parts, strict=True))
