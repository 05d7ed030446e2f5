"""The command line: `peftkit COMMAND`, and `main` for recipe scripts.

Imports only what every command needs; torch is imported after a recipe has been checked.
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

from peftkit.bases.packages import report_missing_packages
from peftkit.cli.adapters import adapter_command
from peftkit.cli.arguments import Arguments
from peftkit.cli.commands import (
    RECIPE_COMMANDS,
    TAKE_FIELDS,
    Commands,
    add_run_options,
    command_parser,
)
from peftkit.cli.compare import compare_command
from peftkit.cli.overrides import Overrides
from peftkit.cli.recipe_files import hint_beside, recipe_in, recipe_of
from peftkit.cli.recipes import check_command, plan_command, run_command
from peftkit.errors import PeftkitError
from peftkit.experiments.comparing.grid import refuse_folds
from peftkit.parts.scripts import import_trusted, refuse_shadowing
from peftkit.recipe import Recipe, recipe_schema
from peftkit.training.threads import sleep_while_waiting


def main(recipe: Callable[[], Recipe], arguments: Sequence[str] | None = None) -> None:
    """Runs a recipe script: builds its recipe, applies overrides from the command line, trains it.

    If the recipe, the data or the base is wrong, prints a message and exits with code 2.
    """
    sleep_while_waiting()
    script = Path(recipe.__code__.co_filename)
    argv = sys.argv[1:] if arguments is None else list(arguments)
    parser = Arguments(f"python {script.name}", add_help=False)
    add_run_options(parser)

    def command() -> None:
        options, overrides = parser.parse_known_args(argv)
        refuse_shadowing(script)
        run_command(recipe_of(recipe, script, overrides, parser.options), options, script)

    _exit(command, "--debug" in argv, "--json" in argv)


def command_line(arguments: Sequence[str] | None = None) -> None:
    """Runs the `peftkit` command."""
    sleep_while_waiting()
    argv = sys.argv[1:] if arguments is None else list(arguments)
    parser = command_parser()
    if not argv:
        print(parser.format_help(), end="", file=sys.stderr)
        sys.exit(2)

    def command() -> None:
        parser.check_name(argv[0])
        options, left = parser.parse_known_args(argv)
        if options.command not in TAKE_FIELDS:
            parser.named[options.command].refuse(left)
        _command(options, left, parser)

    _exit(command, "--debug" in argv, "--json" in argv)


def _command(options: argparse.Namespace, overrides: list[str], parser: Commands) -> None:
    for module in getattr(options, "trust_module", []):
        import_trusted(module)
    command_options = parser.named[options.command].options
    if options.command == "schema":
        print(json.dumps(recipe_schema(), indent=2))
    elif options.command == "env":
        from peftkit.cli.environment import env_command

        env_command(options)
    elif options.command == "completion":
        from peftkit.cli.completion import script_for

        print(script_for(options.shell, parser), end="")
    elif options.command == "new":
        from peftkit.cli.new import new_command

        new_command(options, Overrides(overrides, "peftkit new --help", command_options))
    elif options.command == "compare":
        from peftkit.stages.early import check_early

        recipes = [recipe_in(Path(file), overrides, command_options) for file in options.files]
        refuse_folds(recipes)
        with hint_beside(Path(options.files[0])):
            check_early(recipes[0])  # the other recipes have the same base and data
        compare_command(recipes, options)
    elif options.command in RECIPE_COMMANDS:
        file = Path(options.file)
        recipe = recipe_in(file, overrides, command_options)
        commands = {"run": run_command, "check": check_command, "plan": plan_command}
        commands[options.command](recipe, options, file)
    else:
        adapter_command(options)


def _terminate(*_: object) -> None:
    print("stopped by SIGTERM", file=sys.stderr)
    sys.exit(143)


def _exit(command: Callable[[], None], debug: bool, as_json: bool) -> None:
    """Runs a command; if it raises a PeftkitError, prints the error and exits with its code."""
    if threading.current_thread() is threading.main_thread():  # SIGTERM then removes partial files
        signal.signal(signal.SIGTERM, _terminate)
    try:
        with report_missing_packages():
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
