"""The command line: `peftkit COMMAND`, and `main` for recipe scripts.

Only what every command needs is imported here; torch is loaded when a recipe turned out to be
good.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peftkit.bases.packages import named_packages
from peftkit.cli.adapters import adapter_command
from peftkit.cli.compare import add_compare, compare_command
from peftkit.cli.options import add_adapter_commands
from peftkit.cli.recipe_files import hint_beside, recipe_in, recipe_of
from peftkit.cli.recipes import check_command, new_command, plan_command, run_command
from peftkit.errors import PeftkitError
from peftkit.parts.scripts import import_trusted, refuse_shadowing
from peftkit.recipe import Recipe, recipe_schema
from peftkit.training.threads import sleep_while_waiting

RECIPE_COMMANDS = ("run", "check", "plan", "compare")


def main(recipe: Callable[[], Recipe], arguments: Sequence[str] | None = None) -> None:
    """Runs a recipe script: builds its recipe, applies the command line's overrides, trains.

    Exits with 2 and a message for a person if anything in recipe, data or base is wrong.
    """
    sleep_while_waiting()
    script = Path(recipe.__code__.co_filename)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    _add_run_options(parser)
    options, overrides = parser.parse_known_args(arguments)

    def command() -> None:
        refuse_shadowing(script)
        run_command(recipe_of(recipe, script, overrides), options, script)

    _exit(command, options.debug, options.json)


class _WholeNames(argparse.ArgumentParser):
    """Takes no option for another one that begins as it does: `--seed` is the recipe's."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **{**options, "allow_abbrev": False})


def command_line(arguments: Sequence[str] | None = None) -> None:
    """The `peftkit` command."""
    sleep_while_waiting()
    parser = argparse.ArgumentParser(
        "peftkit", description="Parameter-efficient fine-tuning whose results can be trusted."
    )
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", parser_class=_WholeNames
    )
    for name, text in (
        ("run", "train a recipe (.py or recipe.json) and leave a checked adapter"),
        ("check", "find everything that can be wrong without loading weights; trains nothing"),
        ("plan", "tell the memory and the time that a run will take, before weights are loaded"),
    ):
        part = commands.add_parser(
            name,
            help=text,
            description=text,
            epilog="Fields of the recipe can follow: --method.r 16",
        )
        part.add_argument("file", help="a recipe script, or a recipe.json")
        part.add_argument(
            "--trust-module", action="append", default=[], metavar="NAME",
            help="import this module or .py file, whose tasks and methods the recipe names",
        )  # fmt: skip
        _add_run_options(part, output=name == "run")
    _add_run_options(add_compare(commands), output=False)
    new = commands.add_parser("new", help="write a recipe script to start from")
    new.add_argument("name", help="of the script and its runs")
    commands.add_parser("schema", help="print the JSON Schema of recipe.json")
    add_adapter_commands(commands)
    options, overrides = parser.parse_known_args(arguments)
    if overrides and options.command not in RECIPE_COMMANDS:
        parser.error(f"unrecognized arguments: {' '.join(overrides)}")
    debug = getattr(options, "debug", False)
    _exit(lambda: _command(options, overrides), debug, getattr(options, "json", False))


def _add_run_options(parser: argparse.ArgumentParser, output: bool = True) -> None:
    if output:
        parser.add_argument("--output-dir", default="", help="new folder; runs/<name> if not given")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _command(options: argparse.Namespace, overrides: list[str]) -> None:
    for module in getattr(options, "trust_module", []):
        import_trusted(module)
    if options.command == "schema":
        print(json.dumps(recipe_schema(), indent=2))
    elif options.command == "new":
        new_command(options.name)
    elif options.command == "compare":
        from peftkit.stages.early import look

        recipes = [recipe_in(Path(file), overrides) for file in options.files]
        with hint_beside(Path(options.files[0])):
            look(recipes[0])  # the others have the same base and data
        compare_command(recipes, options)
    elif options.command in RECIPE_COMMANDS:
        file = Path(options.file)
        recipe = recipe_in(file, overrides)
        does = {"run": run_command, "check": check_command, "plan": plan_command}
        does[options.command](recipe, options, file)
    else:
        adapter_command(options)


def _terminate(*_: object) -> None:
    print("stopping, as SIGTERM asks", file=sys.stderr)
    sys.exit(143)


def _exit(command: Callable[[], None], debug: bool, as_json: bool) -> None:
    """Runs a command; a known error becomes a message and its exit code."""
    if threading.current_thread() is threading.main_thread():  # so that what is half written goes
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with named_packages():
            command()
    except PeftkitError as error:
        if debug:
            raise
        print(error, file=sys.stderr)
        if as_json:
            print(json.dumps({"status": "error", "error": error.message, "hint": error.hint}))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        print("stopped by Ctrl-C", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
