"""The parser for `peftkit COMMAND`; its help lists the commands in groups."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from peftkit.bases.packages import installed_version
from peftkit.cli.arguments import Arguments
from peftkit.cli.compare import add_compare
from peftkit.cli.groups import GROUPS, SUMMARIES
from peftkit.cli.options import add_adapter_commands
from peftkit.errors import RecipeError, did_you_mean, quoted

RECIPE_COMMANDS = ("run", "check", "plan", "compare")
TAKE_FIELDS = (*RECIPE_COMMANDS, "new")
"""Commands that also take the fields of a recipe as options."""
SHELLS = ("bash", "zsh", "fish")
EXAMPLE = "peftkit new mine --data reviews.csv  # then: python mine.py"


class Commands(Arguments):
    """The parser for `peftkit`, with a parser inside for each command."""

    named: Mapping[str, Arguments] = {}

    def format_help(self) -> str:
        """Returns the help text: the commands in groups, and an example."""
        lines = [f"usage: {self.prog} COMMAND ...", "", f"{self.description}"]
        for group, commands in GROUPS.items():
            lines += ["", f"{group}:"]
            lines += [f"  {name:<12}{text}" for name, text in commands.items()]
        lines += ["", f"{self.prog} COMMAND --help shows a command's options.", ""]
        return "\n".join([*lines, "example:", f"  {EXAMPLE}", ""])

    def check_name(self, name: str) -> None:
        """Raises RecipeError unless the first argument is a known command or option."""
        known = [*self.named, *self.options]
        if name in (*known, "-h"):
            return
        what = "option" if name.startswith("-") else "command"
        raise RecipeError(
            f"there is no {what} `{name}`",
            did_you_mean(name, known) or f"the commands are {quoted(self.named, 20)}",
        )


def command_parser() -> Commands:
    """Makes the parser of the command line; its `named` maps commands to their parsers."""
    parser = Commands(
        "peftkit", description="Parameter-efficient fine-tuning whose results can be trusted."
    )
    parser.add_argument(
        "--version", action="version", version=f"peftkit {installed_version('peftkit')}"
    )
    commands: Any = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Arguments)
    for name in ("run", "check", "plan"):
        _add_recipe_command(commands, name)
    add_run_options(add_compare(commands), output=False)
    _add_new(commands)
    _add_others(commands)
    add_adapter_commands(commands)
    parser.named = commands.choices
    return parser


def add_run_options(parser: argparse.ArgumentParser, output: bool = True) -> None:
    """Adds the options of recipe commands: `--json`, `--debug` and, by default, `--output-dir`."""
    if output:
        parser.add_argument("--output-dir", default="", help="new folder; runs/<name> if not given")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_recipe_command(commands: Any, name: str) -> None:
    part = commands.add_parser(
        name,
        description=SUMMARIES[name],
        epilog="Fields of the recipe can follow: --method.r 16 (`python FILE --help` lists a "
        "script's fields)",
    )
    part.add_argument("file", help="a recipe script, or a recipe.json")
    part.add_argument(
        "--trust-module", action="append", default=[], metavar="NAME",
        help="import this module or .py file, which defines tasks or methods of the recipe",
    )  # fmt: skip
    add_run_options(part, output=name == "run")


def _add_new(commands: Any) -> None:
    new = commands.add_parser(
        "new",
        description=f"{SUMMARIES['new']}.",
        epilog="Fields of the recipe can follow: --task.data.label NAME, --method.r 16",
    )
    new.add_argument("name", help="name of the script and its runs")
    new.add_argument(
        "--data", default="", metavar="FILE",
        help="your data; its columns decide the task; movie reviews if not given",
    )  # fmt: skip
    new.add_argument(
        "--task", default="", metavar="KIND",
        help="task, such as Chat: if the columns do not decide it, or for its sample data",
    )  # fmt: skip
    new.add_argument(
        "--trust-module", action="append", default=[], metavar="NAME",
        help="import this module or .py file, which defines the task",
    )  # fmt: skip
    new.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_others(commands: Any) -> None:
    for name, text in GROUPS["more"].items():
        part = commands.add_parser(name, description=text)
        if name == "env":
            part.add_argument("--json", action="store_true", help="one JSON object on stdout")
        if name == "completion":
            part.add_argument("shell", choices=SHELLS, metavar="SHELL", help=", ".join(SHELLS))
            part.epilog = 'bash: eval "$(peftkit completion bash)"'
