"""Command-line parsers whose errors have peftkit's form: `error:`, `hint:`, exit code 2."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any, NoReturn

from peftkit.errors import RecipeError, did_you_mean, quoted

NUMBERS = {"int": "whole number", "float": "number"}


@dataclass(frozen=True)
class Problem:
    """What is wrong with one argument, and a hint."""

    what: str
    hint: str = ""

    def __str__(self) -> str:
        return f"{self.what}; {self.hint}" if self.hint else self.what


def one_error(problems: Collection[Problem], listing: str) -> RecipeError:
    """Combines problems into one error.

    Args:
        listing: command that lists the options, for the hint.
    """
    lists = f"`{listing}` lists the options"
    if len(problems) == 1:
        (problem,) = problems
        return RecipeError(problem.what, problem.hint or lists)
    lines = "".join(f"\n  {problem}" for problem in problems)
    return RecipeError(f"the command line has {len(problems)} problems\n{lines}", lists)


def no_such_option(name: str, options: Collection[str]) -> Problem:
    """Returns the problem of an unknown option, with the most similar known option in its hint.

    If the text before the last `.` names a part, only the options of that part are searched.
    """
    owner, _, last = name.rpartition(".")
    siblings = [o.rpartition(".")[2] for o in options if owner and o.rpartition(".")[0] == owner]
    if fields := [o for o in options if o.startswith(f"{name}.")]:
        first = ", ".join(f"`{field}`" for field in sorted(fields)[:2])
        hint = f"its fields have options, such as {first}; change `{name[2:]}=` in the script"
        return Problem(f"there is no option `{name}`", hint)
    if not siblings:
        return Problem(f"there is no option `{name}`", did_you_mean(name, options))
    guess = did_you_mean(last, siblings).replace("mean `", f"mean `{owner}.")
    return Problem(f"there is no option `{name}`", guess or f"`{owner}` has {quoted(siblings, 30)}")


def grouped(arguments: Iterable[str]) -> list[list[str]]:
    """Groups each option with the values that follow it. Values before the first option form a
    group of their own.
    """
    groups: list[list[str]] = []
    for argument in arguments:
        if re.match(r"--|-[A-Za-z]", argument) or not groups:
            groups.append([argument])
        else:
            groups[-1].append(argument)
    return groups


class Arguments(argparse.ArgumentParser):
    """An argparse parser that raises RecipeError. It takes no abbreviations: `--seed` is a field of
    the recipe, not short for `--seeds`.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self.options: list[str] = []
        super().__init__(*arguments, **{**options, "allow_abbrev": False})

    def add_argument(self, *names: Any, **options: Any) -> argparse.Action:
        """Adds an argument, and records its long names for suggestions and completion."""
        self.options += [name for name in names if name.startswith("--")]
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        """Raises argparse's message as a RecipeError."""
        raise one_error([_reworded(message, self.prog)], f"{self.prog} --help")

    def refuse(self, left: Collection[str]) -> None:
        """Raises RecipeError if there are arguments that the parser did not parse."""
        problems = [
            no_such_option(group[0].partition("=")[0], self.options)
            if group[0].startswith("-")
            else Problem(f"`{self.prog}` takes no further argument, but got {quoted(group)}")
            for group in grouped(left)
        ]
        if problems:
            raise one_error(problems, f"{self.prog} --help")


def _reworded(message: str, command: str) -> Problem:
    """Rewrites a message of argparse in peftkit's form."""
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        return Problem(f"`{command}` needs {quoted(missing[1].split(', '))}")
    parts = re.fullmatch(r"argument ([^:]+): (.*)", message, re.DOTALL)
    if parts is None:
        return Problem(message)
    name = parts[1].split("/")[-1]
    patterns: tuple[tuple[str, Callable[[re.Match[str]], Problem]], ...] = (
        (r"expected (one|at least one) argument", lambda _: Problem(f"`{name}` needs a value")),
        (
            r"invalid (int|float) value: '(.*)'",
            lambda m: Problem(f"`{name}` is `{m[2]}`, which is not a {NUMBERS[m[1]]}"),
        ),
        (
            r"invalid choice: '(.*)' \(choose from (.*)\)",
            lambda m: _choice(name, m[1], [c.strip("'") for c in m[2].split(", ")]),
        ),
    )
    for pattern, problem in patterns:
        if match := re.fullmatch(pattern, parts[2], re.DOTALL):
            return problem(match)
    return Problem(f"`{name}`: {parts[2]}")


def _choice(name: str, value: str, choices: list[str]) -> Problem:
    what = f"`{name}` is `{value}`, which is none of {quoted(choices)}"
    return Problem(what, did_you_mean(value, choices))
