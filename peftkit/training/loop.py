"""The training loop: one function for every task and every method."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from rich.console import Console
from torch import nn

from peftkit.bases.devices import devices_of, is_out_of_memory
from peftkit.data.encoded import Encoded, Examples
from peftkit.errors import OutOfMemoryError, TrainingError
from peftkit.methods.lora_linear import leave_file, own_layers
from peftkit.methods.method import Layout, trainable_parameters
from peftkit.recipe import Recipe, Training
from peftkit.tasks.task import Task
from peftkit.training import guards
from peftkit.training.forward.batching import (
    Step,
    micro_batches,
    number_of_steps,
    padded_tokens,
    seeded_steps,
    worst_micro_batch,
)
from peftkit.training.forward.collating import collate, to_device
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.frozen_trunk import find_frozen_trunk
from peftkit.training.forward.reading import LossOf, Reader, base_of
from peftkit.training.interruptions import agreed, at_once_if_alone, interruptible
from peftkit.training.optimizers import make_optimizer, make_schedule
from peftkit.training.progress import TrainingProgress
from peftkit.training.stopping import Best


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step."""

    step: int
    epoch: int
    loss: float
    """Mean over the step's targets."""
    learning_rate: float
    gradient_norm: float
    """Before clipping."""


@dataclass(frozen=True)
class ValidationRecord:
    """One score on the validation split."""

    step: int
    metrics: dict[str, float]
    seconds: float
    """Of training up to here, validations aside."""


@dataclass(frozen=True)
class TrainResult:
    """What training did; the model itself holds the best weights."""

    best_step: int
    metric: str
    """The validation score that chose the best step."""
    best_value: float
    num_steps: int
    stopped: str
    """Why training ended: `finished`, `early stopping` or `interrupted`."""
    history: tuple[StepRecord, ...]
    validations: tuple[ValidationRecord, ...]
    exit_code: int
    """What the signal that interrupted it asks for; else 0."""
    seconds: float
    validation_seconds: float
    """Of them, spent on scoring the validation split."""
    layout: Layout
    """Of the batches."""
    num_examples: int
    num_tokens: int
    """Without padding, over all epochs."""
    num_padded_tokens: int
    """What the model was given: with padding, and what examples share once for each row."""


@dataclass
class _Account:
    """What the loop writes down as it goes."""

    history: list[StepRecord] = field(default_factory=list)
    validations: list[ValidationRecord] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    padded: int = 0
    validation_seconds: float = 0.0
    exit_code: int = 0
    """What a signal asks for; 0 if none came."""

    def interrupted(self, code: int, best: Best, num_steps: int) -> str:
        """Notes a signal's exit code; where it came, if there are no validated weights to keep."""
        self.exit_code = code
        step = f"at step {len(self.history):,} of {num_steps:,}"
        return "" if best.value is not None else f"{step}, before there were weights to keep"

    def validated(
        self, step: int, metrics: dict[str, float], begun: float, started: float
    ) -> float:
        """Notes a validation; gives the mean training loss since the one before.

        Args:
            begun: when the validation began.
            started: when training did.
        """
        before = self.validations[-1].step if self.validations else 0
        trained = begun - started - self.validation_seconds
        self.validation_seconds += time.perf_counter() - begun
        self.validations.append(ValidationRecord(step, metrics, trained))
        losses = [record.loss for record in self.history if record.step > before]
        return sum(losses) / len(losses)


def train(
    reader: Reader,
    encoded: Encoded,
    recipe: Recipe,
    accelerator: Accelerator,
    score: Callable[[Reader], dict[str, float]],
    console: Console,
) -> TrainResult:
    """Trains what the method made trainable, in place, and restores the best weights. A signal ends
    it where weights have been validated; the result says so.

    Args:
        reader: the model, and the way that batches are given to it.
        score: scores a model on the validation split.

    Raises:
        TrainingError: nothing is supervised, a trained tensor gets no gradient, the loss is not
            finite, or a frozen weight changed. The weights are those of the last good step.
        Interrupted: a signal came before there were weights to keep.
    """
    started = time.perf_counter()
    task, method, training = recipe.task, recipe.method, recipe.training
    model, examples = reader.model, encoded.train
    num_steps = number_of_steps(training, len(examples))
    passes = -(-num_steps * training.batch_size // len(examples))
    _float32_where_trained(model)
    leave_file(model)
    if not trainable_parameters(model):
        raise TrainingError(f"{method.kind()} left nothing to train")
    digest = guards.frozen_digest(model)
    if training.gradient_checkpointing:
        keep_few_activations(model)
    optimizer = make_optimizer(
        model, training, method.learning_rate_scales(model), method.undecayed(model)
    )
    schedule = make_schedule(optimizer, training, num_steps)
    with accelerator.autocast():
        quiet = modules_below(model, _first_batch(encoded, task, accelerator.device))
    if reader.packed:
        reader.keep(find_frozen_trunk(base_of(model), quiet, reader.every_token, passes))
    loss_of = LossOf(reader, partial(task.loss, label_smoothing=training.label_smoothing))
    wrapped = accelerator.prepare(loss_of)  # no gradient scaler: the optimizer stays as it is
    _train_mode(wrapped, quiet)
    _try_worst(wrapped, reader, encoded, recipe, accelerator)
    best = Best(recipe.task.metric(recipe.metric), training.early_stopping_patience)
    account = _Account()
    with (
        TrainingProgress(console, num_steps, accelerator.is_main_process) as progress,
        interruptible(partial(account.interrupted, best=best, num_steps=num_steps)) as signals,
    ):
        for step in seeded_steps(len(examples), training.batch_size, num_steps, recipe.seed):
            record = _optimize(
                wrapped, reader, step, encoded, recipe, accelerator, optimizer, account
            )
            method.after_step(model, step.number, num_steps)
            schedule.step()
            account.history.append(record)
            _tell(record, step, examples, progress, accelerator)
            if _is_validation(step, training, num_steps):
                begun = time.perf_counter()
                with at_once_if_alone(signals, accelerator):
                    metrics = score(reader)
                _train_mode(wrapped, quiet)
                loss = account.validated(step.number, metrics, begun, started)
                if step.number >= method.settled_after(num_steps):
                    best.update(metrics, model, step.number)
                accelerator.log({f"validation/{k}": v for k, v in metrics.items()}, step.number)
                progress.validation(step.number, loss, metrics, best.since == 0)
                if best.exhausted:
                    break
            if agreed(signals, accelerator):
                break
    _leave(reader, best, digest)
    return _result(account, best, started, reader, accelerator)


def _tell(
    record: StepRecord,
    step: Step,
    examples: Examples,
    progress: TrainingProgress,
    accelerator: Accelerator,
) -> None:
    """Shows a step, and sends it to the trackers."""
    tokens = examples.tokens_of(step.indices)
    progress.step(record.loss, record.learning_rate, len(step.indices), tokens)
    accelerator.log({"loss": record.loss, "lr": record.learning_rate}, record.step)


def _leave(reader: Reader, best: Best, digest: str) -> None:
    """Leaves the model with the best weights, as it is used from now on.

    Args:
        digest: of the frozen weights before training.
    """
    model = reader.model
    reader.trunk = None
    best.restore(model)
    for layer in own_layers(model):
        layer.settle()
    guards.check_frozen(model, digest)
    model.eval()
    model.zero_grad(set_to_none=True)


def _result(
    account: _Account, best: Best, started: float, reader: Reader, accelerator: Accelerator
) -> TrainResult:
    assert best.value is not None
    padded = account.padded
    if accelerator.num_processes > 1:
        padded = sum(gather_object([padded]))
    return TrainResult(
        best_step=best.step,
        metric=best.metric.name,
        best_value=best.value,
        num_steps=len(account.history),
        stopped=_reason(account, best),
        exit_code=account.exit_code,
        history=tuple(account.history),
        validations=tuple(account.validations),
        seconds=time.perf_counter() - started,
        validation_seconds=account.validation_seconds,
        layout=reader.layout,
        num_examples=account.examples,
        num_tokens=account.tokens,
        num_padded_tokens=padded,
    )


def _reason(account: _Account, best: Best) -> str:
    if account.exit_code:
        return "interrupted"
    return "early stopping" if best.exhausted else "finished"


def _try_worst(
    model: nn.Module, reader: Reader, encoded: Encoded, recipe: Recipe, accelerator: Accelerator
) -> None:
    """Passes the run's largest micro-batch through the model and forgets it, so that memory runs
    out now or never; not if the first step has one as large.

    Raises:
        TrainingError: it does not fit.
    """
    examples, training = encoded.train, recipe.training
    layout, config = reader.layout, reader.config
    worst = worst_micro_batch(examples, recipe, layout, accelerator, config).indices
    tokens = padded_tokens(examples, worst, reader.layout)
    first = next(seeded_steps(len(examples), training.batch_size, 1, recipe.seed))
    of_first = micro_batches(examples, first, training, reader.layout, accelerator, reader.config)
    if tokens <= 1.05 * max(padded_tokens(examples, one, reader.layout) for one in of_first):
        return
    batch = collate(examples, worst, recipe.task.reads, encoded.pad_token_id, reader.layout)
    batch = to_device(batch, accelerator.device)
    try:
        with (
            torch.random.fork_rng(devices_of(accelerator.device)),
            accelerator.no_sync(model),
            reader.ready(batch) as given,
        ):
            with accelerator.autocast():
                loss = model(given).float()
            accelerator.backward(loss)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows = ", ".join(str(examples.rows[index].number) for index in worst[:10])
        raise OutOfMemoryError(
            f"the largest micro-batch, {tokens:,} tokens (rows {rows}), does not fit into memory",
            "lower `training.micro_batch_tokens` or the task's `max_length`"
            + ", or set `training.gradient_checkpointing`" * (not training.gradient_checkpointing),
        ) from error
    finally:
        reader.model.zero_grad(set_to_none=True)


def _optimize(
    model: nn.Module,
    reader: Reader,
    step: Step,
    encoded: Encoded,
    recipe: Recipe,
    accelerator: Accelerator,
    optimizer: Any,
    account: _Account,
) -> StepRecord:
    """One optimizer step over all processes' micro-batches.

    Args:
        model: gives the sum of losses of a batch, as Accelerate prepared it.
    """
    task, method, training = recipe.task, recipe.method, recipe.training
    examples = encoded.train
    count = _step_count(examples, step, task)
    cut = micro_batches(examples, step, training, reader.layout, accelerator, reader.config)
    total = torch.zeros((), device=accelerator.device)
    optimizer.zero_grad(set_to_none=True)
    for number, indices in enumerate(cut, start=1):
        last = number == len(cut)
        batch = collate(examples, indices, task.reads, encoded.pad_token_id, reader.layout)
        batch = to_device(batch, accelerator.device)
        with (
            contextlib.nullcontext() if last else accelerator.no_sync(model),
            reader.ready(batch) as given,
        ):
            with accelerator.autocast():
                loss = model(given).float() / count
            total += loss.detach()
            # DDP averages the gradients over processes, and the loss is a sum over them
            loss = loss * accelerator.num_processes
            if last and (penalty := method.penalty(reader.model)) is not None:
                loss = loss + penalty
            accelerator.backward(loss)
        account.padded += batch.input_ids.numel() if indices else 0
    account.examples += len(step.indices)
    account.tokens += examples.tokens_of(step.indices)
    if step.number == 1:
        guards.check_first_gradients(reader.model, count)
    norm = float(guards.gradient_norm(optimizer, training.max_grad_norm))
    if accelerator.num_processes > 1:
        total = accelerator.reduce(total)
    mean_loss = float(total)
    guards.check_finite(mean_loss, norm, step.number, step.indices, examples)
    learning_rate = max(group["lr"] for group in optimizer.param_groups)
    optimizer.step()
    return StepRecord(step.number, step.epoch, mean_loss, learning_rate, norm)


def _step_count(examples: Examples, step: Step, task: Task) -> float:
    """What the step's loss is divided by: over all micro-batches and processes."""
    targets = torch.from_numpy(np.concatenate([examples.targets[i] for i in step.indices]))
    weights = torch.ones(len(targets))
    if examples.weights is not None:
        weights = torch.from_numpy(np.concatenate([examples.weights[i] for i in step.indices]))
    return float(task.count(targets, weights))


def _first_batch(encoded: Encoded, task: Task, device: torch.device) -> Any:
    return to_device(collate(encoded.train, [0], task.reads, encoded.pad_token_id), device)


def _is_validation(step: Step, training: Training, num_steps: int) -> bool:
    if training.evaluate_every:
        return step.number % training.evaluate_every == 0 or step.number == num_steps
    return step.last_of_epoch or step.number == num_steps


def _train_mode(model: nn.Module, quiet: list[nn.Module]) -> None:
    """Training mode, except for the modules that must compute the same in every epoch."""
    model.train()
    for module in quiet:
        module.training = False


def keep_few_activations(model: nn.Module) -> None:
    """Lets the base compute the activations inside each block again in the backward pass."""
    base = base_of(model)
    enable = getattr(base, "activation_checkpointing_enable", None)  # its name since 5.2x
    (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})


def _float32_where_trained(model: nn.Module) -> None:
    """Small updates vanish in bfloat16, so whatever is trained is float32."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
