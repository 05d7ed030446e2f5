"""Trains a prepared recipe: weights, score before, injection, training, score after."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace

from accelerate import Accelerator
from accelerate.utils import set_seed
from rich.console import Console
from torch import nn

from peftkit.adapters.starting import restore_start
from peftkit.bases.added_tokens import train_added_tokens
from peftkit.bases.devices import give_back_memory, weights_dtype
from peftkit.bases.footprint import footprint
from peftkit.bases.loaded_model import LoadedModel
from peftkit.bases.loading import load_weights
from peftkit.bases.quantizing import check_quantized
from peftkit.data.encoded import Examples
from peftkit.evaluation.features import FrozenBase, beside_scores, tried
from peftkit.evaluation.frozen_probe import ROW, has_probe
from peftkit.evaluation.generating import answer_prompts
from peftkit.evaluation.probe_rows import ProbeOfRun, probe_of_run
from peftkit.evaluation.scoring import evaluate
from peftkit.methods.method import Layout, trainable_parameters
from peftkit.recipe import Recipe
from peftkit.reports.run_record import Sample
from peftkit.reports.terminal import print_note
from peftkit.stages.outcome import Clock, Outcome
from peftkit.stages.plan import forward_tokens
from peftkit.stages.preparing import Prepared
from peftkit.stages.rehearsal import count
from peftkit.tasks.task import Score
from peftkit.training.forward.reading import Reader
from peftkit.training.forward.self_check import Chosen, choose_reader
from peftkit.training.interruptions import interruptible
from peftkit.training.loop import TrainResult, train
from peftkit.training.progress import Pace, says


class Unfinished(Exception):
    """Training was interrupted after weights had been validated; the model has the best of them."""

    def __init__(
        self, model: nn.Module, before: Score, result: TrainResult, unquantized: list[str]
    ) -> None:
        super().__init__()
        self.model, self.before, self.result = model, before, result
        self.unquantized = unquantized


def train_and_score(
    prepared: Prepared,
    accelerator: Accelerator,
    clock: Clock,
    console: Console,
    frozen_probe: bool = True,
) -> tuple[nn.Module, Outcome]:
    """Weights, score before, injection, training, score after.

    Args:
        frozen_probe: whether to judge a classifier's frozen base, too.

    Raises:
        Unfinished: a signal came while it trained; nothing is scored after.
    """
    recipe, base, encoded = prepared.recipe, prepared.base, prepared.encoded
    set_seed(recipe.seed)
    with clock.stage("load"):
        loaded = load(prepared, accelerator)
    unquantized = loaded.quantized.unquantized if loaded.quantized else []

    def answer(model: nn.Module) -> list[str]:
        pace = Pace(says(console), "written answers", len(encoded.prompts))
        return answer_prompts(model, encoded, base.tokenizer, accelerator, pace.advance)

    def scored(reader: Reader) -> Score:
        pace = Pace(says(console), "test", len(encoded.test))
        return score(reader, encoded.test, prepared, accelerator, pace.advance)

    with clock.stage("evaluate"):
        of_base = choose_reader(
            loaded.model, encoded, recipe.task, _layouts(recipe), accelerator, gradients=False
        )
    if frozen_probe and has_probe(recipe.task):
        read = _frozen_base(loaded, of_base.reader, prepared, accelerator, console)
        before, probe = score_and_probe(read, prepared, clock, scored)
    else:
        with clock.stage("evaluate"):
            before, probe = scored(of_base.reader), None
    with clock.stage("generate"):
        answers_before = answer(loaded.model)
    with clock.stage("inject"):
        base_memory = footprint(loaded.model)
        model = inject(loaded, prepared)
        trainable = count(trainable_parameters(model).values())
    with clock.stage("self-check"):
        chosen = choose_trained(model, prepared, accelerator)
    for note in dict.fromkeys((*of_base.notes, *chosen.notes)):
        print_note(console, note)
    begun = {}
    if prepared.start:
        with clock.stage("evaluate"):
            begun["start"] = scored(chosen.reader).metrics
    with interruptible(lambda _: "") as signals:
        with clock.stage("train"):
            result = fit(chosen.reader, prepared, accelerator, clock, console)
        give_back_memory()  # of the optimizer
        if not signals.code:
            with signals.at_once():
                with clock.stage("evaluate"):
                    after = scored(chosen.reader)
                    baselines = {**recipe.task.baselines(encoded), **_scores_of(probe), **begun}
                with clock.stage("generate"):
                    answers_after = answer(model)
    if signals.code:
        result = replace(result, stopped="interrupted", exit_code=signals.code)
        raise Unfinished(model, before, result, unquantized)
    samples, answers = _written(prepared, answers_before, answers_after)
    accelerator.end_training()  # closes trackers and the process group: nothing is shared below
    return model, Outcome(
        before, baselines, after, samples, answers, result, chosen.notes, trainable, base_memory,
        unquantized, probe,
    )  # fmt: skip


def _written(
    prepared: Prepared, before: Sequence[str], after: Sequence[str]
) -> tuple[tuple[Sample, ...], dict[str, dict[str, float]]]:
    """What the model wrote before and after training, and the scores of both."""
    samples = tuple(
        Sample(prompt.row, prompt.text, prompt.expected, *written)
        for prompt, *written in zip(prepared.encoded.prompts, before, after, strict=True)
    )
    expected = [sample.expected for sample in samples]
    scored = {
        when: prepared.recipe.task.score_answers(expected, written)
        for when, written in (("before", before), ("after", after))
    }
    return samples, {when: scores for when, scores in scored.items() if scores}


def _frozen_base(
    loaded: LoadedModel,
    reader: Reader,
    prepared: Prepared,
    accelerator: Accelerator,
    console: Console,
) -> FrozenBase:
    tokens, pad = prepared.recipe.training.micro_batch_tokens, prepared.encoded.pad_token_id
    return FrozenBase(loaded.head, reader, pad, tokens, accelerator, says(console))


def score_and_probe(
    base: FrozenBase, prepared: Prepared, clock: Clock, scored: Callable[[Reader], Score]
) -> tuple[Score, ProbeOfRun]:
    """The untrained model's score on the test split, and its frozen probe, for which that pass over
    the test split is enough where the architecture lets it.
    """
    recipe, encoded = prepared.recipe, prepared.encoded
    with clock.stage("probe"):
        found = tried(base, encoded.train)
    with clock.stage("evaluate"):
        beside = beside_scores(base, encoded.test) if found.beside else nullcontext()
        with beside as seen:
            before = scored(base.reader)
    if found.failed:
        return before, ProbeOfRun(found.failed)
    planned = forward_tokens(recipe, encoded, prepared.trained_share)
    embeddings = base.model.get_input_embeddings().weight
    numbers = max(1, prepared.total_parameters - embeddings.numel())
    with clock.stage("probe"):
        test = seen.features() if seen else None
        return before, probe_of_run(base, encoded, recipe, test, planned, numbers)


def _scores_of(probe: ProbeOfRun | None) -> dict[str, dict[str, float]]:
    """As a baseline."""
    return {} if probe is None or probe.found is None else {ROW: probe.found.score.metrics}


def load(prepared: Prepared, accelerator: Accelerator) -> LoadedModel:
    """The base with its weights and an untrained head; set the seed first."""
    recipe = prepared.recipe
    dtype = weights_dtype(recipe.base, recipe.method.trains_base_weights)
    head, dropout = prepared.encoded.head, recipe.training.dropout
    loaded = load_weights(prepared.base, head, dtype, accelerator.device, dropout)
    if loaded.quantized:  # what the rehearsal told of shapes, once more of what is there
        check_quantized(prepared.base, loaded.model, loaded.quantized)
    give_back_memory()  # of what was quantized
    return loaded


def inject(loaded: LoadedModel, prepared: Prepared) -> nn.Module:
    """The model that is trained."""
    recipe, base = prepared.recipe, prepared.base
    model = recipe.method.inject(loaded.model, prepared.encoded, loaded.head)
    train_added_tokens(model, base.added_ids)
    if prepared.start:
        restore_start(model, prepared.start, recipe, base)
    return model


def choose_trained(model: nn.Module, prepared: Prepared, accelerator: Accelerator) -> Chosen:
    """The fastest way to train it that computes the right thing."""
    recipe = prepared.recipe
    layouts = tuple(way for way in _layouts(recipe) if way in recipe.method.layouts)
    return choose_reader(model, prepared.encoded, recipe.task, layouts, accelerator, gradients=True)


def fit(
    reader: Reader, prepared: Prepared, accelerator: Accelerator, clock: Clock, console: Console
) -> TrainResult:
    """Trains, with scores on the validation split, whose memory is counted apart."""
    recipe, encoded = prepared.recipe, prepared.encoded

    def validate(reader: Reader) -> dict[str, float]:
        pace = Pace(says(console), "validation", len(encoded.validation))
        with clock.stage("validate"):
            return score(reader, encoded.validation, prepared, accelerator, pace.advance).metrics

    accelerator.init_trackers(recipe.name or "peftkit")
    return train(reader, encoded, recipe, accelerator, validate, console)


def score(
    reader: Reader,
    examples: Examples,
    prepared: Prepared,
    accelerator: Accelerator,
    progress: Callable[[int], None] | None = None,
) -> Score:
    """A model's score on one split.

    Args:
        progress: called with the number of examples that were run, again and again.
    """
    recipe, encoded = prepared.recipe, prepared.encoded
    tokens, pad = recipe.training.micro_batch_tokens, encoded.pad_token_id
    return evaluate(reader, examples, encoded.head, recipe.task, pad, tokens, accelerator, progress)


def _layouts(recipe: Recipe) -> tuple[Layout, ...]:
    return ("padded", "packed") if recipe.training.layout == "auto" else ("padded",)
