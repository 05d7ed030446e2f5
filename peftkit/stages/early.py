"""Checks a recipe before the slow import of the model libraries: output, base files, start adapter,
rows.
"""

from __future__ import annotations

from peftkit.adapters.hub import find_adapter
from peftkit.bases.files import check_has_weights, fetch, find_local
from peftkit.data.ledger import Ledger
from peftkit.data.splits import Splits, load_splits
from peftkit.recipe import Recipe
from peftkit.stages.run_folder import check_output

Rows = tuple[Splits, Ledger]
"""The splits of a recipe, and the ledger of every row."""


def look(recipe: Recipe, output_dir: str | None = None) -> Rows:
    """Checks all that needs no model library; returns the recipe's rows.

    Args:
        output_dir: the folder to write to, empty for `runs/<name>`; None to write nothing.

    Raises:
        PeftkitError: whatever is wrong.
    """
    if output_dir is not None:
        check_output(output_dir)
    if recipe.start_from:
        find_adapter(recipe.start_from)
    found = find_local(recipe.base)
    if found is None:
        fetch(recipe.base)  # asks the Hub, or its cache
    elif found.is_dir():
        check_has_weights(found)
    return load_splits(recipe.task, recipe.split_seed)
