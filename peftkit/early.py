"""What can be wrong with a recipe and is told before the model libraries are imported, which takes
seconds: the place to write to, the base's files, the adapter to start from, the rows.
"""

from __future__ import annotations

from peftkit.adapters.hub import find_adapter
from peftkit.bases.opening import check_has_weights, find_local
from peftkit.data.ledger import Ledger
from peftkit.data.splits import Splits, load_splits
from peftkit.output import check_output
from peftkit.recipe import Recipe

Rows = tuple[Splits, Ledger]
"""The rows of a recipe, split, and the account of them."""


def look(recipe: Recipe, output_dir: str | None = None) -> Rows:
    """The rows of a recipe, after a look at everything that needs no model library.

    Args:
        output_dir: where a run is to be written, empty for `runs/<name>`; None if none is.

    Raises:
        PeftkitError: whatever is wrong.
    """
    if output_dir is not None:
        check_output(output_dir)
    if recipe.start_from:
        find_adapter(recipe.start_from)
    found = find_local(recipe.base)
    if found and found.is_dir():
        check_has_weights(found)
    return load_splits(recipe.task, recipe.split_seed)
