"""Records of a run's steps and validations, and the result of training."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from accelerate.utils import gather_object

from peftkit.data.encoded import Examples
from peftkit.methods.method import Layout
from peftkit.tasks.answers import Decision
from peftkit.training.forward.engine import Engine, StepPass
from peftkit.training.forward.steps import Step
from peftkit.training.stopping import Best


@dataclass(frozen=True)
class StepRecord:
    """One optimizer step."""

    step: int
    epoch: int
    loss: float
    """Mean loss over the step's targets."""
    learning_rate: float
    gradient_norm: float
    """L2 norm of all gradients before clipping."""


@dataclass(frozen=True)
class ValidationRecord:
    """The scores of one validation."""

    step: int
    metrics: dict[str, float]
    seconds: float
    """Seconds of training before this validation, earlier validations not counted."""


@dataclass(frozen=True)
class TrainResult:
    """The result of training, which run.json records. The best weights are in the model, not here.
    All times are wall-clock seconds.
    """

    best_step: int
    metric: str
    """Name of the validation score that chose the best step."""
    best_value: float
    decision: Decision
    """The task's decision on the validation split with the best weights."""
    num_steps: int
    stopped: str
    """Why training ended: `finished`, `early stopping` or `interrupted`."""
    history: tuple[StepRecord, ...]
    validations: tuple[ValidationRecord, ...]
    exit_code: int
    """The exit code of the signal that interrupted training; 0 if none did."""
    validation_seconds: float
    """The part of `train_seconds` spent on scoring the validation split."""
    layout: Layout
    """Layout of the batches: `padded`, `packed` or `shared`."""
    num_examples: int
    num_tokens: int
    """Number of training tokens over all epochs, without padding."""
    num_padded_tokens: int
    """Number of tokens that the model read, padding included. First tokens that the examples of a
    row share are counted once."""
    train_seconds: float

    @property
    def learning_seconds(self) -> float:
        """Seconds of training, without validations."""
        return self.train_seconds - self.validation_seconds


@dataclass
class Account:
    """The records that the training loop collects."""

    history: list[StepRecord] = field(default_factory=list)
    validations: list[ValidationRecord] = field(default_factory=list)
    examples: int = 0
    tokens: int = 0
    padded: int = 0
    validation_seconds: float = 0.0
    exit_code: int = 0
    """The exit code of the signal that interrupted training; 0 if none came."""

    def record_pass(self, examples: Examples, step: Step, passed: StepPass) -> None:
        """Adds a step's numbers of examples and tokens to the totals."""
        self.examples += len(step.indices)
        self.tokens += examples.tokens_of(step.indices)
        self.padded += passed.num_padded_tokens

    def record_signal(self, code: int, best: Best, num_steps: int) -> str:
        """Records a signal's exit code. Returns a text with the step at which the signal came if
        there are no best weights yet, and an empty text if there are.
        """
        self.exit_code = code
        step = f"at step {len(self.history):,} of {num_steps:,}"
        return "" if best.value is not None else f"{step}, before there were weights to keep"

    def record_validation(
        self, step: int, metrics: dict[str, float], begun: float, started: float
    ) -> float:
        """Records a validation; returns the mean training loss since the previous validation.

        Args:
            begun: time at which the validation began.
            started: time at which training began.
        """
        before = self.validations[-1].step if self.validations else 0
        trained = begun - started - self.validation_seconds
        self.validation_seconds += time.perf_counter() - begun
        self.validations.append(ValidationRecord(step, metrics, trained))
        losses = [record.loss for record in self.history if record.step > before]
        return sum(losses) / len(losses)

    def result(self, best: Best, seconds: float, engine: Engine) -> TrainResult:
        """Makes the result of training.

        Args:
            seconds: wall-clock time of training, validations included.
        """
        assert best.value is not None
        padded = self.padded
        if engine.accelerator.num_processes > 1:
            padded = sum(gather_object([padded]))
        return TrainResult(
            best_step=best.step,
            metric=best.metric.name,
            best_value=best.value,
            decision=best.decision,
            num_steps=len(self.history),
            stopped=self._reason(best),
            exit_code=self.exit_code,
            history=tuple(self.history),
            validations=tuple(self.validations),
            validation_seconds=self.validation_seconds,
            layout=engine.layout,
            num_examples=self.examples,
            num_tokens=self.tokens,
            num_padded_tokens=padded,
            train_seconds=seconds,
        )

    def _reason(self, best: Best) -> str:
        if self.exit_code:
            return "interrupted"
        return "early stopping" if best.exhausted else "finished"
