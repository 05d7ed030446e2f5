"""The grid of a comparison: methods, learning rates for each, and seeds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pydantic import Field

from peftkit.bases.base import Base
from peftkit.errors import RecipeError, quoted
from peftkit.evaluation.retention import Retention
from peftkit.methods.full_fine_tuning import FullFineTuning
from peftkit.metrics.metric import Metric
from peftkit.parts.json_values import differences
from peftkit.parts.part import Part
from peftkit.recipe import Recipe

FULL = "full"
"""Name of the full fine-tuning recipe that is added if none is given."""
FULL_RATE = 1e-4
"""Learning rate of the added full fine-tuning recipe: a tenth of LoRA's rate (Schulman 2025)."""
PROBE = "frozen_probe"
SEARCHED = 0.25
"""Number of optimizer steps of a trial, divided by the number of optimizer steps of a run."""
VALIDATIONS = 8
"""Number of validations in a run if the recipe does not set `evaluate_every`."""
FREE = (
    "training.learning_rate", "training.micro_batch_tokens", "training.layout",
    "training.gradient_checkpointing", "training.report_to", "training.early_stopping_patience",
    "base.quantization", "base.double_quant", "base.dtype",
)  # fmt: skip
"""Fields in which recipes may differ. A comparison searches the learning rate, and turns early
stopping and trackers off. Precision belongs to the method. The remaining fields affect results only
through dropout masks."""


class Budget(Part):
    """How many trials and runs a comparison makes, and how it judges the results."""

    num_trials: int = Field(default=4, ge=1, le=20)
    """Number of learning rates to try for each method: around its own rate, half a decade apart."""
    num_seeds: int = Field(default=3, ge=1, le=100)
    """Number of runs of each method at its best rate. Seeds count up from the recipe's seed."""
    margin: float | None = Field(default=None, gt=0)
    """Largest difference of two scores that does not matter, in the metric's unit. If not given:
    0.01; for a loss, 1 % of full fine-tuning's loss."""
    retention: Retention | None = None
    """General text on which a language model's forgetting is measured; None to skip this."""


@dataclass(frozen=True)
class Contender:
    """A method in a comparison, with the learning rates to try."""

    recipe: Recipe
    """The method's recipe, without early stopping and trackers; gives the contender its name."""
    rates: tuple[float, ...]
    is_baseline: bool = False

    @property
    def name(self) -> str:
        """Name of the contender and of its row in the table; unique in a comparison."""
        return self.recipe.name


@dataclass(frozen=True)
class Grid:
    """All contenders of a comparison, the baseline first, and the budget."""

    contenders: tuple[Contender, ...]
    budget: Budget

    @property
    def metric(self) -> Metric:
        """The metric by which methods are compared."""
        recipe = self.contenders[0].recipe
        return recipe.task.metric(recipe.metric)

    @property
    def seeds(self) -> tuple[int, ...]:
        """The seeds of the runs; they are the same for every contender."""
        first = self.contenders[0].recipe.seed
        return tuple(range(first, first + self.budget.num_seeds))


def make_grid(recipes: Sequence[Recipe], budget: Budget) -> Grid:
    """Makes the grid of the recipes; adds full fine-tuning if no recipe has it.

    Raises:
        RecipeError: recipes differ in more than the method, two have the same name, or one starts
            from an adapter.
    """
    if not recipes:
        raise RecipeError("no recipe to compare", "give one or more recipe scripts")
    refuse_folds(recipes)
    named = [recipe if recipe.name else recipe.with_(name="recipe") for recipe in recipes]
    names = [recipe.name for recipe in named]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise RecipeError(
            f"{quoted(twice)} is the name of more than one recipe",
            "give each recipe its own `name`, the name of its row in the table",
        )
    if taken := sorted({PROBE} & set(names)):
        raise RecipeError(f"`{taken[0]}` is the name of the probe's row", "rename the recipe")
    for recipe in named[1:]:
        _check_same(named[0], recipe)
    for recipe in named:
        if recipe.start_from:
            raise RecipeError(
                f"`{recipe.name}` starts from an adapter",
                "remove `start_from`: in a comparison, every method starts from the base",
            )
    full = [recipe for recipe in named if _is_baseline(recipe)]
    if len(full) > 1:
        raise RecipeError(
            f"{quoted(recipe.name for recipe in full)} are both full fine-tuning, the baseline",
            "leave one out",
        )
    baseline = full[0] if full else _added_baseline(named)
    others = [recipe for recipe in named if recipe is not baseline]
    contenders = []
    for recipe in (baseline, *others):
        rates = rates_around(recipe.training.learning_rate, budget.num_trials)
        contenders.append(Contender(_with_budget(recipe), rates, recipe is baseline))
    return Grid(tuple(contenders), budget)


def refuse_folds(recipes: Sequence[Recipe]) -> None:
    """Raises RecipeError if a recipe asks for cross-validation."""
    for recipe in recipes:
        if recipe.task.source.runs_all_folds:
            raise RecipeError(
                f"a comparison trains on one split, and `{recipe.name or 'the recipe'}` has "
                f"`folds` {recipe.task.source.folds}",
                "leave `folds` out, or compare on one fold: `--task.data.fold 1`",
            )


def rates_around(rate: float, count: int) -> tuple[float, ...]:
    """`count` learning rates around `rate`: half a decade apart, rounded to three digits. If
    `count` is even, one more rate is above `rate` than below it.
    """
    places = range(-((count - 1) // 2), count // 2 + 1)
    return tuple(float(f"{rate * 10 ** (at / 2):.3g}") if at else rate for at in places)


def precision(base: Base) -> str:
    """Name of a base's quantization and dtype, such as `nf4-double-bfloat16`."""
    return "-".join((base.quantization, *["double"] * base.double_quant, base.dtype))


def with_rate(recipe: Recipe, rate: float, seed: int) -> Recipe:
    """A copy of the recipe with another learning rate and seed."""
    return recipe.with_(training=recipe.training.with_(learning_rate=rate), seed=seed)


def steps_of_search(num_steps: int) -> int:
    """Number of optimizer steps of a trial if a run has `num_steps` steps."""
    return max(1, math.ceil(SEARCHED * num_steps))


def for_search(recipe: Recipe, num_steps: int) -> Recipe:
    """A copy of a recipe for a trial, with fewer steps than a run.

    Args:
        num_steps: number of optimizer steps of a run.
    """
    steps = steps_of_search(num_steps)
    every = max(1, math.ceil(steps / (VALIDATIONS // 2)))
    training = recipe.training.with_(max_steps=steps, evaluate_every=every)
    return recipe.with_(training=training)


def for_seeds(recipe: Recipe, num_steps: int) -> Recipe:
    """A copy of a recipe for a run, with enough validations to draw a curve."""
    every = recipe.training.evaluate_every or max(1, math.ceil(num_steps / VALIDATIONS))
    return recipe.with_(training=recipe.training.with_(evaluate_every=every))


def _check_same(first: Recipe, other: Recipe) -> None:
    """Raises RecipeError if two recipes differ in a field that must be the same for all methods."""
    fixed = {"base", "task", "training", "split_seed", "seed"}
    one, two = (recipe.model_dump(mode="json", include=fixed) for recipe in (first, other))
    unlike = [change for change in differences(one, two) if change[0] not in FREE]
    if unlike:
        name, a, b = unlike[0]
        others = f" (and {quoted(place for place, _, _ in unlike[1:])})" if len(unlike) > 1 else ""
        hint = f"put `--{name.replace('_', '-')} VALUE` after the files to set it in all"
        raise RecipeError(
            f"`{name}` is {a!r} in `{first.name}` and {b!r} in `{other.name}`{others}; "
            "compared recipes may differ in the method only",
            "" if name == "task" else hint,
        )


def _is_baseline(recipe: Recipe) -> bool:
    return isinstance(recipe.method, FullFineTuning)


def _added_baseline(recipes: Sequence[Recipe]) -> Recipe:
    """Makes a recipe of full fine-tuning from the settings of the given recipes."""
    if FULL in (recipe.name for recipe in recipes):
        raise RecipeError(f"`{FULL}` is the name of the full fine-tuning row", "rename the recipe")
    first = recipes[0]
    training = first.training.with_(
        learning_rate=FULL_RATE,
        gradient_checkpointing=False,
        layout="auto",
        micro_batch_tokens=min(recipe.training.micro_batch_tokens for recipe in recipes),
    )
    dtypes = {recipe.base.dtype for recipe in recipes}
    dtype = first.base.dtype if len(dtypes) == 1 else "auto"
    base = first.base.with_(quantization="none", double_quant=False, dtype=dtype)
    return first.with_(name=FULL, method=FullFineTuning(), training=training, base=base)


def _with_budget(recipe: Recipe) -> Recipe:
    """The recipe without trackers and early stopping, so that all methods train equally long."""
    training = recipe.training.with_(early_stopping_patience=0, report_to="none")
    return recipe.with_(training=training)
