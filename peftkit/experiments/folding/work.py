"""The function that the process of a fold calls."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.experiments.jobs.work import import_files
from peftkit.recipe import Recipe
from peftkit.run import run
from peftkit.stages.early import Rows


def run_fold(recipe: str, trusted: Sequence[str], rows: Rows, folder: str) -> None:
    """Makes the run of a fold in a folder.

    Args:
        recipe: the fold's recipe, as JSON.
        trusted: the modules with the user's own task and method.
        rows: the fold's rows.
    """
    import_files(trusted)
    run(Recipe.from_json(recipe), folder, rows=rows)
