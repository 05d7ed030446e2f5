"""The training loop, which is the same for every task and every method."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from rich.console import Console
from torch import nn

from peftkit.bases.devices import is_out_of_memory, rng_devices
from peftkit.data.encoded import Examples
from peftkit.errors import OutOfMemoryError, TrainingError
from peftkit.methods.fast_layers import release_checkpoint_mapping
from peftkit.methods.method import trainable_parameters
from peftkit.recipe import Recipe, Training
from peftkit.tasks.score import Score
from peftkit.training import guards
from peftkit.training.account import Account, StepRecord, TrainResult
from peftkit.training.forward.batching import padded_tokens, worst_micro_batch
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.forward_pass import base_of
from peftkit.training.forward.frozen_below import modules_below
from peftkit.training.forward.frozen_trunk import find_frozen_trunk
from peftkit.training.forward.steps import Step, number_of_steps, steps_of
from peftkit.training.interruptions import (
    Signals,
    any_process_signalled,
    at_once_if_alone,
    interruptible,
)
from peftkit.training.optimizers import make_optimizer, make_schedule
from peftkit.training.progress import TrainingProgress
from peftkit.training.stopping import Best


def train(
    engine: Engine,
    examples: Examples,
    recipe: Recipe,
    score: Callable[[Engine], Score],
    console: Console,
    head: Sequence[str] = (),
) -> TrainResult:
    """Trains the model in place, validates it with `score`, and restores the best weights.

    Args:
        head: names of the head's modules, which have a learning rate of their own.

    Raises:
        TrainingError: nothing is supervised, a trained tensor gets no gradient, the loss is not
            finite, or a frozen weight changed. The model keeps the weights of the last good step.
        Interrupted: a signal came before the first validation. A later signal ends training early,
            without an error.
    """
    started = time.perf_counter()
    run = _prepare(engine, examples, recipe, head)
    engine, num_steps = run.engine, number_of_steps(recipe.training, examples.num_units)
    _try_largest(engine, examples, recipe)
    best = Best(recipe.task.metric(recipe.metric), recipe.training.early_stopping_patience)
    account, accelerator = Account(), engine.accelerator
    with (
        TrainingProgress(console, num_steps, accelerator.is_main_process) as progress,
        interruptible(partial(account.record_signal, best=best, num_steps=num_steps)) as signals,
    ):
        for step in steps_of(examples, recipe.training, num_steps, recipe.seed):
            record = _optimize(run, step, examples, recipe, account)
            recipe.method.after_step(engine.model, step.number, num_steps)
            run.schedule.step()
            account.history.append(record)
            _report(record, step, examples, progress, engine)
            if _is_validation(step, recipe.training, num_steps):
                begun = time.perf_counter()
                validated = _validate(run, score, signals)
                metrics = validated.metrics
                loss = account.record_validation(step.number, metrics, begun, started)
                if step.number >= recipe.method.first_selectable_step(num_steps):
                    best.update(validated, engine.model, step.number)
                accelerator.log({f"validation/{k}": v for k, v in metrics.items()}, step.number)
                progress.validation(step.number, loss, metrics, best.since == 0)
                if best.exhausted:
                    break
            if any_process_signalled(signals, accelerator):
                break
    _finish(engine.model, recipe, best, run.digest)
    return account.result(best, time.perf_counter() - started, engine)


@dataclass(frozen=True)
class _Prepared:
    """A model prepared for training, its optimizer and its learning-rate schedule."""

    engine: Engine
    """Engine that sums gradients over all processes."""
    optimizer: Any
    schedule: Any
    frozen_below: list[nn.Module]
    """Modules that stay in evaluation mode, so that they compute the same in every epoch."""
    digest: str
    """SHA-256 of the frozen weights before training."""


def _prepare(engine: Engine, examples: Examples, recipe: Recipe, head: Sequence[str]) -> _Prepared:
    """Prepares a model for training.

    Raises:
        TrainingError: the model has no trainable parameters.
    """
    model, method, training = engine.model, recipe.method, recipe.training
    num_steps = number_of_steps(training, examples.num_units)
    _float32_where_trained(model)
    release_checkpoint_mapping(model, method.fast(model))
    if not trainable_parameters(model):
        raise TrainingError(f"{method.kind()} left nothing to train")
    digest = guards.frozen_digest(model)
    if training.gradient_checkpointing:
        keep_few_activations(model)
    optimizer = make_optimizer(
        model, training, method.learning_rate_scales(model), method.undecayed(model), head
    )
    schedule = make_schedule(optimizer, training, num_steps)
    frozen_below = _frozen_below(engine, examples)
    passes = -(-num_steps * training.batch_size // examples.num_units)
    engine = _with_trunk(engine, frozen_below, passes).in_all_processes()
    _train_mode(engine, frozen_below)
    return _Prepared(engine, optimizer, schedule, frozen_below, digest)


def _report(
    record: StepRecord,
    step: Step,
    examples: Examples,
    progress: TrainingProgress,
    engine: Engine,
) -> None:
    """Shows a step in the progress display, and sends it to the trackers."""
    tokens = examples.tokens_of(step.indices)
    progress.step(record.loss, record.learning_rate, len(step.indices), tokens)
    engine.accelerator.log({"loss": record.loss, "lr": record.learning_rate}, record.step)


def _finish(model: nn.Module, recipe: Recipe, best: Best, digest: str) -> None:
    """Restores the best weights, and prepares the model for use after training.

    Args:
        digest: SHA-256 of the frozen weights before training.
    """
    best.restore(model)
    for layer in recipe.method.fast(model):
        layer.unfuse()
    guards.check_frozen(model, digest)
    model.eval()
    model.zero_grad(set_to_none=True)


def _frozen_below(engine: Engine, examples: Examples) -> list[nn.Module]:
    """Finds the modules that finish before the first trained tensor is used."""
    padded = engine.in_layout("padded")
    with engine.accelerator.autocast():
        return modules_below(engine.model, padded.batch(examples, [0]))


def _with_trunk(engine: Engine, frozen_below: list[nn.Module], passes: int) -> Engine:
    """Returns an engine that runs frozen blocks once per example; without such blocks, `engine`."""
    if not engine.forward.packed:
        return engine
    base = base_of(engine.model)
    trunk = find_frozen_trunk(base, frozen_below, engine.forward.every_token, passes)
    return engine.with_trunk(trunk)


def _try_largest(engine: Engine, examples: Examples, recipe: Recipe) -> None:
    """Computes and drops the gradients of the run's largest micro-batch, to fail before training if
    memory is short. Does nothing if the first step has a micro-batch of about that size.

    Raises:
        OutOfMemoryError: the micro-batch does not fit into memory.
    """
    training, accelerator, layout = recipe.training, engine.accelerator, engine.layout
    worst = worst_micro_batch(examples, recipe, layout, accelerator, engine.config).indices
    tokens = padded_tokens(examples, worst, layout)
    first = next(steps_of(examples, training, 1, recipe.seed))
    first_batches = engine.micro_batches(examples, first)
    if tokens <= 1.05 * max(padded_tokens(examples, one, layout) for one in first_batches):
        return
    try:
        with torch.random.fork_rng(rng_devices(accelerator.device)):
            engine.gradients(examples, [worst], sync=False)
    except RuntimeError as error:
        if not is_out_of_memory(error):
            raise
        rows = ", ".join(str(examples.row(index).number) for index in worst[:10])
        raise OutOfMemoryError(
            f"the largest micro-batch, {tokens:,} tokens (rows {rows}), does not fit into memory",
            "lower `training.micro_batch_tokens` or the task's `max_length`"
            + ", or set `training.gradient_checkpointing`" * (not training.gradient_checkpointing),
        ) from error
    finally:
        engine.model.zero_grad(set_to_none=True)


def _optimize(
    run: _Prepared, step: Step, examples: Examples, recipe: Recipe, account: Account
) -> StepRecord:
    """Takes one optimizer step on the micro-batches of all processes."""
    engine, optimizer = run.engine, run.optimizer
    count = engine.loss.count(examples, step.indices)
    guards.check_counted(count, step.number, step.indices, examples)
    optimizer.zero_grad(set_to_none=True)
    passed = engine.gradients(
        examples, engine.micro_batches(examples, step), count, penalty=recipe.method.penalty
    )
    account.record_pass(examples, step, passed)
    if step.number == 1:
        guards.check_first_gradients(engine.model, count)
    norm = float(guards.gradient_norm(optimizer, recipe.training.max_grad_norm))
    total = passed.loss
    if engine.accelerator.num_processes > 1:
        total = engine.accelerator.reduce(total)
    mean_loss = float(total)
    guards.check_finite(mean_loss, norm, step.number, step.indices, examples)
    group = optimizer.param_groups[0]
    learning_rate = recipe.training.learning_rate * group["lr"] / group["initial_lr"]
    optimizer.step()
    return StepRecord(step.number, step.epoch, mean_loss, learning_rate, norm)


def _is_validation(step: Step, training: Training, num_steps: int) -> bool:
    if training.evaluate_every:
        return step.number % training.evaluate_every == 0 or step.number == num_steps
    return step.last_of_epoch or step.number == num_steps


def _validate(run: _Prepared, score: Callable[[Engine], Score], signals: Signals) -> Score:
    """Scores the model on the validation split. If there is a single process, a signal ends the
    scoring immediately.
    """
    with at_once_if_alone(signals, run.engine.accelerator):
        validated = score(run.engine)
    _train_mode(run.engine, run.frozen_below)
    return validated


def _train_mode(engine: Engine, frozen_below: list[nn.Module]) -> None:
    """Sets training mode for all modules but `frozen_below`, which stay in evaluation mode."""
    (engine.parallel or engine.model).train()
    for module in frozen_below:
        module.training = False


def keep_few_activations(model: nn.Module) -> None:
    """Makes the base recompute the activations inside each block in the backward pass."""
    base = base_of(model)
    enable = getattr(base, "activation_checkpointing_enable", None)  # since transformers 5.2x
    (enable or base.gradient_checkpointing_enable)({"use_reentrant": False})


def _float32_where_trained(model: nn.Module) -> None:
    """Converts all trained parameters to float32, since small updates are lost in bfloat16."""
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.float()
