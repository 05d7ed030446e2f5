"""The folds of a recipe: one recipe for each, with its rows. Imports no torch."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from peftkit.data.splits import load_splits
from peftkit.errors import DataError, RecipeError, quoted
from peftkit.recipe import Recipe
from peftkit.stages.early import Rows, check_early
from peftkit.wording import noun


@dataclass(frozen=True)
class Fold:
    """One run of a cross-validation."""

    number: int
    """Counted from 1."""
    recipe: Recipe
    rows: Rows

    @property
    def name(self) -> str:
        """Name of the run's folder."""
        return f"fold_{self.number}"

    @property
    def sizes(self) -> dict[str, int]:
        """Split -> number of rows."""
        return {name: len(rows) for name, rows in self.rows[0].named().items()}


def read_folds(recipe: Recipe, output_dir: str | None = None) -> tuple[Fold, ...]:
    """Runs the checks of `check_early`; returns the recipe's folds, or the recipe itself as the
    only one if it makes one run.

    Args:
        output_dir: for a recipe that makes one run, see `check_early`.

    Raises:
        PeftkitError: the output folder, the base, the start adapter or the data is wrong.
    """
    count = recipe.task.source.folds
    if count is None or not recipe.task.source.runs_all_folds:
        return (Fold(1, recipe, check_early(recipe, output_dir)),)
    recipes = [fold_recipe(recipe, number) for number in range(1, count + 1)]
    folds: list[Fold] = []
    for number, one in enumerate(recipes, start=1):
        try:
            rows = load_splits(one.task, one.split_seed) if folds else check_early(one)
        except DataError as error:
            error.message = f"fold {number} of {count}: {error.message}"
            raise
        folds.append(Fold(number, one, rows))
    return tuple(folds)


def fold_recipe(recipe: Recipe, number: int) -> Recipe:
    """Returns the recipe of one fold.

    Raises:
        RecipeError: the task does not keep its source as `data`.
    """
    task = recipe.task
    if "data" not in type(task).model_fields:
        raise RecipeError(
            f"{task.kind()} has no `data`, so its rows cannot be divided into folds",
            "name the field with its source `data`",
        )
    return recipe.with_(task=task.with_(data=task.source.with_(fold=number)))


def fold_notes(folds: Sequence[Fold]) -> Iterator[str]:
    """Yields notes on the division into folds: labels that not every fold tests."""
    task = folds[0].recipe.task
    if not task.stratum_column:
        return
    counts = [Counter(map(task.stratum, fold.rows[0].test)) for fold in folds]
    everywhere = sum(counts, Counter[str]())
    rare = sorted(name for name in everywhere if any(not count[name] for count in counts))
    if rare:
        yield (
            f"some folds test no row of {noun(len(rare), 'label')} {quoted(rare)}; scores over "
            "all rows count them, scores of single folds do not"
        )


def rows_sha256(folds: Sequence[Fold]) -> str:
    """SHA-256 of the rows of all splits of all folds."""
    digest = hashlib.sha256()
    for fold in folds:
        for name, rows in fold.rows[0].named().items():
            values = [(row.number, row.group, dict(row.values)) for row in rows]
            text = json.dumps([name, values], sort_keys=True, ensure_ascii=False, default=str)
            digest.update(text.encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
