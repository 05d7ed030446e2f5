"""Prepares a comparison: makes every check that needs no weights."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from peftkit.errors import MethodError, RecipeError, quoted
from peftkit.evaluation.scoring import rehearsed_score
from peftkit.experiments.comparing.grid import Budget, Contender, Grid, make_grid, steps_of_search
from peftkit.experiments.comparing.jobs import num_steps
from peftkit.experiments.jobs.own_process import refuse_launcher
from peftkit.metrics.metric import Metric, TextMetric
from peftkit.recipe import Recipe
from peftkit.stages.preparing import Prepared, prepare
from peftkit.wording import plural


def prepare_grid(recipes: Sequence[Recipe], budget: Budget) -> tuple[Grid, Prepared]:
    """Prepares all recipes like `prepare_all`; returns (grid, prepared baseline)."""
    grid, prepared = prepare_all(recipes, budget)
    return grid, prepared[0]


def prepare_all(recipes: Sequence[Recipe], budget: Budget) -> tuple[Grid, list[Prepared]]:
    """Prepares all recipes; returns (grid, prepared recipes with the baseline first). Makes all
    checks that need no weights, except for the check of the general text, which `common` makes.

    Raises:
        PeftkitError: a recipe, its data or its base is wrong.
    """
    refuse_launcher("a comparison", "peftkit compare")
    grid = make_grid(recipes, budget)
    first = prepare(grid.contenders[0].recipe)
    prepared = [first]
    _check_search(grid.contenders[0], num_steps(first))
    for contender in grid.contenders[1:]:
        prepared.append(_prepare_beside(contender, first))
        _check_search(contender, num_steps(first))
    _check_budget(grid)
    _check_metric(first, grid.metric)
    return grid, prepared


def _prepare_beside(contender: Contender, first: Prepared) -> Prepared:
    """Prepares a contender; raises RecipeError if its examples are not those of the baseline."""
    prepared = prepare(contender.recipe)
    if prepared.encoded.sha256 != first.encoded.sha256:
        raise RecipeError(
            f"`{contender.name}` would read other examples than `{first.recipe.name}`: its virtual "
            "tokens leave less room for the text, which is cut or dropped earlier",
            f"lower `task.max_length` of all recipes by {contender.recipe.method.position_offset} "
            "or more",
        )
    return replace(prepared, encoded=first.encoded)  # equal: keeps them in memory once


def _check_search(contender: Contender, steps: int) -> None:
    """Raises MethodError if a trial has too few steps for the method."""
    search = steps_of_search(steps)
    if len(contender.rates) == 1:
        return
    if reason := contender.recipe.method.refuses_steps(search):
        raise MethodError(
            f"`{contender.name}` cannot be tried in {plural(search, 'step')}, a quarter of "
            f"the steps of a run: {reason}"
        )


def _check_metric(first: Prepared, metric: Metric) -> None:
    """Raises RecipeError if the task does not return the metric's value for each row. A comparison
    needs these values, because it compares methods row by row.
    """
    if isinstance(metric, TextMetric):
        return
    task, encoded = first.recipe.task, first.encoded
    parts = rehearsed_score(task, encoded.test, encoded.head).parts
    if metric.name not in parts:
        raise RecipeError(
            f"a comparison needs the value of `{metric.name}` for each row, but "
            f"`{task.kind()}.metrics` returns no value per row",
            f"compare by {quoted(parts)}" if parts else "return `Score(parts=...)` from `metrics`",
        )


def _check_budget(grid: Grid) -> None:
    """Raises RecipeError if the margin or the general text does not fit the task."""
    task, budget, metric = grid.contenders[0].recipe.task, grid.budget, grid.metric
    if (budget.margin or 0) >= 1 and metric.higher_is_better:
        raise RecipeError(
            f"a margin of {budget.margin:g} covers the whole range of {metric.name}",
            "give a smaller margin; 1 point is 0.01",
        )
    if budget.retention is not None and not task.goes_on:
        raise RecipeError(
            "this task trains no language model, so a loss on general text cannot be measured",
            "leave `--retain` out",
        )
