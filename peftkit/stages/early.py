"""Checks a recipe before the slow import of model libraries: output, base, start adapter, rows."""

from __future__ import annotations

from peftkit.adapters.hub import find_adapter
from peftkit.bases.files import check_has_weights, fetch, find_local
from peftkit.data.ledger import Ledger
from peftkit.data.splits import Splits, load_splits
from peftkit.recipe import Recipe
from peftkit.stages.run_folder import check_output

Rows = tuple[Splits, Ledger]
"""The splits of a recipe, and the ledger that accounts for every row."""


def check_early(recipe: Recipe, output_dir: str | None = None) -> Rows:
    """Runs every check that needs no model library; returns the recipe's rows.

    Args:
        output_dir: the output folder; empty for `runs/<name>`, None if nothing is written.

    Raises:
        PeftkitError: the output folder, the base, the start adapter or the data is wrong.
    """
    if output_dir is not None:
        check_output(output_dir)
    if recipe.start_from:
        find_adapter(recipe.start_from)
    folder = find_local(recipe.base)
    if folder is None:
        fetch(recipe.base)  # for a base on the Hub, asks the Hub or its cache
    elif folder.is_dir():
        check_has_weights(folder)
    return load_splits(recipe.task, recipe.split_seed)
