"""Applies recipe fields that are set on the command line.

tyro parses the options. One error in peftkit's form reports all problems.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

from pydantic import ValidationError

from peftkit.cli.arguments import Problem, grouped, no_such_option, one_error
from peftkit.errors import RecipeError, quoted
from peftkit.parts.part import Part
from peftkit.parts.problems import collected, describe, problems_error, problems_of

Field = tuple[Part, str]
"""A part of a recipe, and the name of a field in it."""
AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True)
class Overrides:
    """The recipe fields given on the command line."""

    arguments: Sequence[str] = ()
    """The arguments, such as `--training.batch-size 8`."""
    listing: str = "peftkit schema"
    """The command that lists the options."""
    command_options: Collection[str] = ()
    """Options of the command itself; errors suggest them for misspelled fields."""

    def below(self, prefix: str, names: Collection[str]) -> Overrides:
        """Selects the options made of `prefix` and one of `names`, and removes the prefix:
        `--task.data.encoding cp1252` becomes `--encoding cp1252`.
        """
        selected = []
        for option, *values in grouped(self.arguments):
            name = option.partition("=")[0].replace("_", "-")
            if name.startswith(prefix) and name.removeprefix(prefix) in names:
                selected += [f"--{option[len(prefix) :]}", *values]
        return replace(self, arguments=selected)


def overridden(part: AnyPart, overrides: Overrides) -> AnyPart:
    """Returns a part with the overrides applied.

    Raises:
        RecipeError: lists every problem of the arguments, each with its option.
        SystemExit: help or a completion script was requested; it has been printed.
    """
    arguments, command_options = overrides.arguments, overrides.command_options
    if not arguments:
        return part
    if arguments[0].startswith("--tyro-") or not {"-h", "--help"}.isdisjoint(arguments):
        import tyro

        requested = arguments if arguments[0].startswith("--tyro-") else ["--help"]
        about = f"Also: {', '.join(command_options)}." if command_options else ""
        prog = overrides.listing.removesuffix(" --help")
        tyro.cli(type(part), default=part, args=requested, prog=prog, description=about)
    value, left, messages = _parsed(part, arguments)
    if value is not None and not left and not messages:
        return value
    fields = dict(_options(part))
    problems: list[Problem] = []
    valid: list[str] = []
    for group in grouped(arguments):
        wrong = list(_problems_of_one(part, group, fields, command_options))
        problems += wrong
        valid += [] if wrong else group
    if problems and valid:
        _, _, messages = _parsed(part, valid)
    named = {_dotted(option): option for option in fields}
    for line in messages:
        where, _, what = line.partition(": ")
        if where in named:
            problems.append(Problem(f"`{named[where]}`: {what}"))
    if not problems:  # fields are wrong in combination
        raise problems_error("command line", messages)
    raise one_error(problems, overrides.listing)


def _parsed(
    part: AnyPart, arguments: Sequence[str]
) -> tuple[AnyPart | None, Sequence[str], list[str]]:
    """Parses arguments with tyro.

    Returns:
        (part, unknown, messages): the changed part, or None if tyro refuses the arguments; the
        arguments that tyro does not know; messages on fields with wrong values.
    """
    import tyro

    silent = io.StringIO()
    with collected() as collector:
        try:
            with contextlib.redirect_stderr(silent):
                value, left = tyro.cli(
                    type(part), default=part, args=arguments, return_unknown_args=True
                )
        except SystemExit:
            return None, (), problems_of(collector)
        except Exception:
            if not collector.failed:  # expected after a field with a wrong value
                raise
            value, left = part, []
    return value, left, problems_of(collector)


def _problems_of_one(
    part: Part, group: list[str], fields: dict[str, Field], command_options: Collection[str]
) -> Iterator[Problem]:
    """Yields the problems of one option and its values, without regard to other options."""
    option, equals, first = group[0].partition("=")
    if not option.startswith("-"):
        yield Problem(f"{quoted(group)} belongs to no option", "give fields as `--method.r 16`")
        return
    value, left, _ = _parsed(part, group)
    if value is not None and group[0] in left:
        yield no_such_option(option, [*fields, *command_options, "--help"])
    elif value is not None and left:
        yield Problem(f"`{option}` does not take {quoted(left)}", _opposite(option, fields))
    elif value is None:
        values = [first, *group[1:]] if equals else group[1:]
        yield Problem(_refused(option, values, fields))


def _refused(option: str, values: list[str], fields: dict[str, Field]) -> str:
    """Returns why an option does not accept its values."""
    if not values:
        return f"`{option}` needs a value"
    if owner_field := fields.get(option.replace("_", "-")):
        owner, field = owner_field
        value: Any = values[0] if len(values) == 1 else values
        try:
            type(owner).model_validate({**dict(owner), field: value})
        except ValidationError as error:
            whys = [line.partition(": ")[2] for line in describe(error, type(owner), (field,))]
            return f"`{option}`: {'; '.join(dict.fromkeys(whys))}"
        except RecipeError:
            pass
    return f"`{option}` does not take {quoted(values)}"


def _opposite(option: str, fields: dict[str, Field]) -> str:
    """Returns a hint that names the opposite of a yes/no option; empty for other options."""
    owner, _, last = option.rpartition(".")
    no = f"{owner}.no-{last}" if owner else f"--no-{last.removeprefix('--')}"
    return f"it takes no value; `{no}` is its opposite" if no in fields else ""


def _options(part: Part, prefix: str = "--") -> Iterator[tuple[str, Field]]:
    """Yields each option of a part, under tyro's name, with the field that it sets."""
    for field in type(part).model_fields:
        value, name = getattr(part, field), prefix + field.replace("_", "-")
        if isinstance(value, Part):
            yield from _options(value, f"{name}.")
        else:
            yield name, (part, field)
            if isinstance(value, bool):
                yield f"{prefix}no-{field.replace('_', '-')}", (part, field)


def _dotted(option: str) -> str:
    """Returns an option's field: `training.batch_size` for `--training.batch-size`."""
    return option.removeprefix("--").replace("-", "_")
