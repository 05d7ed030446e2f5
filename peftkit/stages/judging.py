"""Scores a model and its written answers on the splits of a prepared recipe."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console

from peftkit.data.encoded import Prompt
from peftkit.evaluation.scoring import evaluate, evaluate_and_decide
from peftkit.evaluation.writing import is_text_score, with_text_scores
from peftkit.stages.outcome import Clock
from peftkit.stages.preparing import Prepared
from peftkit.tasks.answers import Decision
from peftkit.tasks.score import Score
from peftkit.training.forward.engine import Engine
from peftkit.training.progress import Pace, line_printer


@dataclass(frozen=True)
class Judge:
    """Scores models on the test split of a prepared recipe."""

    prepared: Prepared
    clock: Clock
    console: Console

    def score(self, engine: Engine, decision: Decision | None = None) -> Score:
        """The task's score on the test split, without the metrics of written texts."""
        test = self.prepared.encoded.test
        pace = Pace(line_printer(self.console), "test", len(test))
        return evaluate(engine, test, self.prepared.recipe.task, pace.advance, decision)

    def score_and_answers(self, engine: Engine, decision: Decision) -> Judged:
        """The test score with the metrics of written texts; and the written answers."""
        with self.clock.stage("evaluate"):
            score = self.score(engine, decision)
        return self.with_answers(score, engine)

    def with_answers(self, score: Score, engine: Engine) -> Judged:
        """Writes answers to the test prompts; adds their metrics to the score."""
        prompts = self.prepared.encoded.prompts
        with self.clock.stage("generate"):
            answers = write_answers(engine, self.prepared, prompts, "written answers", self.console)
        return Judged(with_text_scores(score, self.prepared.recipe.task, prompts, answers), answers)


@dataclass(frozen=True)
class Judged:
    """A model's score on the test split, and its written answers to the test prompts."""

    score: Score
    answers: list[str]


def validation_score(engine: Engine, prepared: Prepared, console: Console) -> Score:
    """The task's score on the validation split. Texts are written and scored only if the recipe's
    metric needs them.
    """
    recipe, encoded = prepared.recipe, prepared.encoded
    pace = Pace(line_printer(console), "validation", len(encoded.validation))
    score = evaluate_and_decide(engine, encoded.validation, recipe.task, pace.advance)
    if not is_text_score(recipe.task, recipe.metric):
        return score
    prompts = encoded.validation_prompts
    answers = write_answers(engine, prepared, prompts, "validation answers", console)
    return with_text_scores(score, recipe.task, prompts, answers)


def write_answers(
    engine: Engine, prepared: Prepared, prompts: Sequence[Prompt], what: str, console: Console
) -> list[str]:
    """The model's answer to each prompt.

    Args:
        what: name of the answers in progress messages.
    """
    pace = Pace(line_printer(console), what, len(prompts))
    ids = [prompt.input_ids for prompt in prompts]
    return engine.write(ids, prepared.base.tokenizer, pace.advance) if ids else []
