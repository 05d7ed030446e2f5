"""Trains a prepared recipe: scores the base, injects the method, trains, scores the result."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from peftkit.adapters.starting import restore_start
from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.devices import release_memory, weights_dtype
from peftkit.bases.footprint import footprint
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.loading import load_weights
from peftkit.bases.quantizing import check_quantized
from peftkit.data.encoded import START_VALUES
from peftkit.evaluation.features import FrozenBase, collect_features, try_features
from peftkit.evaluation.frozen_probe import ROW, has_probe
from peftkit.evaluation.lead import START
from peftkit.evaluation.probe_rows import ProbeOfRun, probe_of_run
from peftkit.evaluation.scoring import keep_outputs, start_values
from peftkit.evaluation.writing import is_text_score
from peftkit.methods.method import Layout, trainable_parameters
from peftkit.recipe import Recipe
from peftkit.reports.run_record import Sample
from peftkit.reports.terminal import print_note
from peftkit.stages.judging import Judge, Judged, validation_score
from peftkit.stages.outcome import Clock, Outcome
from peftkit.stages.plan import forward_tokens
from peftkit.stages.preparing import Prepared
from peftkit.stages.rehearsal import count
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score
from peftkit.training.account import TrainResult
from peftkit.training.forward.engine import Engine
from peftkit.training.forward.self_check import Chosen, choose_engine
from peftkit.training.interruptions import interruptible
from peftkit.training.loop import train
from peftkit.training.progress import line_printer


class Unfinished(Exception):
    """A signal ended training after a validation; `model` holds the best validated weights."""

    def __init__(
        self,
        model: nn.Module,
        before: Score,
        result: TrainResult,
        unquantized: list[str],
        decision: Decision,
    ) -> None:
        super().__init__()
        self.model, self.before, self.result = model, before, result
        self.unquantized, self.decision = unquantized, decision


@dataclass(frozen=True)
class Before(Judged):
    """What the base achieves before training: its score, answers and frozen probe."""

    probe: ProbeOfRun | None
    notes: tuple[str, ...]


def train_and_score(
    prepared: Prepared,
    accelerator: Accelerator,
    clock: Clock,
    console: Console,
    frozen_probe: bool = True,
) -> tuple[nn.Module, Outcome]:
    """Trains a prepared recipe and scores it before and after; returns the model and the outcome.

    Args:
        frozen_probe: whether to fit a probe on the frozen base too; only for classifiers.

    Raises:
        Unfinished: a signal ended training; the trained model is not scored.
    """
    set_seed(prepared.recipe.seed)
    with clock.stage("load"):
        loaded = load(prepared, accelerator)
        prepared = with_start_values(engine_of(loaded.model, prepared, accelerator), prepared)
    judge = Judge(prepared, clock, console)
    before = judge_base(loaded, judge, accelerator, frozen_probe)
    with clock.stage("inject"):
        base_memory = footprint(loaded.model)
        model = inject(loaded, prepared)
        trainable = count(trainable_parameters(model).values())
    with clock.stage("self-check"):
        prepared = with_start_values(engine_of(model, prepared, accelerator), prepared)
        chosen = choose_trained(model, prepared, accelerator)
    for note in dict.fromkeys((*before.notes, *chosen.notes)):
        print_note(console, note)
    judge = replace(judge, prepared=prepared)
    baselines = _baselines(chosen.engine, judge, before.probe)
    with interruptible(lambda _: "") as signals:
        with clock.stage("train"):
            result = fit(chosen.engine, prepared, clock, console, loaded.head)
        release_memory()  # frees the optimizer
        decision = decide(chosen.engine, prepared)
        if not signals.code:
            with signals.at_once():
                after = judge.score_and_answers(chosen.engine, decision)
    if signals.code:
        result = replace(result, stopped="interrupted", exit_code=signals.code)
        raise Unfinished(model, before.score, result, loaded.unquantized, decision)
    samples = _samples(prepared, before.answers, after.answers)
    accelerator.end_training()  # ends trackers and communication between processes
    return model, Outcome(
        before.score, baselines, after.score, samples, result, chosen.notes, trainable,
        base_memory, loaded.unquantized, decision, before.probe,
    )  # fmt: skip


def judge_base(
    loaded: LoadedModel, judge: Judge, accelerator: Accelerator, frozen_probe: bool
) -> Before:
    """Scores the base with a random head, writes its answers; fits a frozen probe if wanted."""
    prepared, clock, recipe = judge.prepared, judge.clock, judge.prepared.recipe
    with clock.stage("evaluate"):
        engine = engine_of(loaded.model, prepared, accelerator)
        layouts, train = _layouts(recipe), prepared.encoded.train
        chosen = choose_engine(engine, train, recipe.method, layouts, gradients=False)
    if frozen_probe and has_probe(prepared.encoded):
        base = FrozenBase(loaded.head, chosen.engine, line_printer(judge.console))
        score, probe = score_and_probe(base, judge)
    else:
        with clock.stage("evaluate"):
            score, probe = judge.score(chosen.engine), None
    judged = judge.with_answers(score, chosen.engine)
    return Before(judged.score, judged.answers, probe, chosen.notes)


def _baselines(
    engine: Engine, judge: Judge, probe: ProbeOfRun | None
) -> dict[str, dict[str, float]]:
    """Test scores of the baselines, by name: guessing, the frozen probe and the start adapter."""
    prepared = judge.prepared
    with judge.clock.stage("evaluate"):
        scores = {**prepared.recipe.task.baselines(prepared.encoded), **_scores_of(probe)}
        if prepared.start:
            score = judge.score(engine)
            if is_text_score(prepared.recipe.task, prepared.recipe.metric):
                score = judge.with_answers(score, engine).score
            scores[START] = score.metrics
    return scores


def _samples(prepared: Prepared, before: Sequence[str], after: Sequence[str]) -> tuple[Sample, ...]:
    """Pairs each test prompt with the model's answers before and after training."""
    return tuple(
        Sample(prompt.row, prompt.text, prompt.expected, *written)
        for prompt, *written in zip(prepared.encoded.prompts, before, after, strict=True)
    )


def score_and_probe(base: FrozenBase, judge: Judge) -> tuple[Score, ProbeOfRun]:
    """Scores the untrained model on the test split and fits the frozen probe. If the architecture
    allows it, both use one pass over the test split.
    """
    prepared, clock = judge.prepared, judge.clock
    recipe, encoded = prepared.recipe, prepared.encoded
    with clock.stage("probe"):
        trial = try_features(base, encoded.train)
    with clock.stage("evaluate"):
        shared_pass = collect_features(base, encoded.test) if trial.while_scoring else nullcontext()
        with shared_pass as seen:
            before = judge.score(base.engine)
    if trial.failed:
        return before, ProbeOfRun(trial.failed)
    planned = forward_tokens(recipe, encoded, prepared.trained_share)
    embeddings = base.model.get_input_embeddings().weight
    numbers = max(1, prepared.total_parameters - embeddings.numel())
    with clock.stage("probe"):
        test = seen.features() if seen else None
        return before, probe_of_run(base, encoded, recipe, test, planned, numbers)


def _scores_of(probe: ProbeOfRun | None) -> dict[str, dict[str, float]]:
    """The probe's test scores, as a baseline; empty if no probe was fitted."""
    return {} if probe is None or probe.fitted is None else {ROW: probe.fitted.score.metrics}


def load(prepared: Prepared, accelerator: Accelerator) -> LoadedModel:
    """Loads the base with its weights and a random head; the caller sets the seed."""
    recipe = prepared.recipe
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    head, dropout = prepared.encoded.head, recipe.training.dropout
    loaded = load_weights(prepared.base, head, dtype, accelerator.device, dropout)
    if loaded.quantized:  # the rehearsal checked shapes only
        check_quantized(prepared.base, loaded.model, loaded.quantized)
    release_memory()  # frees the weights from before quantization
    return loaded


def inject(loaded: LoadedModel, prepared: Prepared) -> nn.Module:
    """Injects the method and restores the start adapter, if there is one; returns the model."""
    recipe, base = prepared.recipe, prepared.base
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    train_added_tokens(model, base.added_ids)
    if prepared.start:
        restore_start(model, prepared.start, recipe, base)
    return model


def engine_of(model: nn.Module, prepared: Prepared, accelerator: Accelerator) -> Engine:
    """An engine with padded batches, which every architecture supports."""
    recipe, encoded = prepared.recipe, prepared.encoded
    loss, tokens = recipe.task.loss(recipe.training), recipe.training.micro_batch_tokens
    return Engine.of(model, encoded.head, loss, encoded.pad_token_id, tokens, accelerator)


def with_start_values(engine: Engine, prepared: Prepared) -> Prepared:
    """Adds each output's current loss to the examples, if the task's loss compares with it."""
    if not engine.loss.needs_start_values:
        return prepared
    values = {
        name: start_values(engine, examples) for name, examples in prepared.encoded.splits().items()
    }
    return replace(prepared, encoded=prepared.encoded.with_column(START_VALUES, values))


def decide(engine: Engine, prepared: Prepared) -> Decision:
    """The task's decision on the validation split, such as a threshold; empty if there is none."""
    task, validation = prepared.recipe.task, prepared.encoded.validation
    if not task.decides:
        return Decision()
    kept = keep_outputs(engine, validation, task.reduce_outputs)
    return task.decide(kept, validation, engine.head)


def choose_trained(model: nn.Module, prepared: Prepared, accelerator: Accelerator) -> Chosen:
    """Chooses the fastest way of training that passes the self-check."""
    recipe, encoded = prepared.recipe, prepared.encoded
    layouts = tuple(way for way in _layouts(recipe) if way in recipe.method.layouts)
    engine = engine_of(model, prepared, accelerator)
    return choose_engine(engine, encoded.train, recipe.method, layouts, gradients=True)


def fit(
    engine: Engine, prepared: Prepared, clock: Clock, console: Console, head: Sequence[str]
) -> TrainResult:
    """Trains the model and validates it; the clock counts validations as a separate stage.

    Args:
        head: names of the head's modules, as in `LoadedModel.head`.
    """
    recipe, encoded = prepared.recipe, prepared.encoded

    def validate(engine: Engine) -> dict[str, float]:
        with clock.stage("validate"):
            return validation_score(engine, prepared, console).metrics

    engine.accelerator.init_trackers(recipe.name or "peftkit")
    return train(engine, encoded.train, recipe, validate, console, head)


def _layouts(recipe: Recipe) -> tuple[Layout, ...]:
    return ("padded", "packed") if recipe.training.layout == "auto" else ("padded",)
