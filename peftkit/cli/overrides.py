"""Fields of a recipe that the command line sets. tyro parses them; what it finds wrong is told as
every other error, all at once.
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
"""A part, and the name of one of its fields."""
AnyPart = TypeVar("AnyPart", bound=Part)


@dataclass(frozen=True)
class Overrides:
    """What the command line says of fields."""

    arguments: Sequence[str] = ()
    """Such as `--training.batch-size 8`."""
    listing: str = "peftkit schema"
    """The command that lists the options."""
    beside: Collection[str] = ()
    """Options that were parsed before, which a misspelled one may mean."""

    def below(self, prefix: str, names: Collection[str]) -> Overrides:
        """Those for some options below a prefix, without it: `--encoding cp1252` of
        `--task.data.encoding cp1252`.
        """
        found = []
        for option, *values in grouped(self.arguments):
            name = option.partition("=")[0].replace("_", "-")
            if name.startswith(prefix) and name.removeprefix(prefix) in names:
                found += [f"--{option[len(prefix) :]}", *values]
        return replace(self, arguments=found)


def overridden(part: AnyPart, overrides: Overrides) -> AnyPart:
    """A part with the fields changed that the overrides name.

    Raises:
        RecipeError: with every problem of the arguments, each with its option.
        SystemExit: help or a script for completion was asked for, and is printed.
    """
    arguments, beside = overrides.arguments, overrides.beside
    if not arguments:
        return part
    if arguments[0].startswith("--tyro-") or not {"-h", "--help"}.isdisjoint(arguments):
        import tyro

        asked = arguments if arguments[0].startswith("--tyro-") else ["--help"]
        about = f"Also: {', '.join(beside)}." if beside else ""
        prog = overrides.listing.removesuffix(" --help")
        tyro.cli(type(part), default=part, args=asked, prog=prog, description=about)
    value, left, told = _parsed(part, arguments)
    if value is not None and not left and not told:
        return value
    fields = dict(_options(part))
    problems: list[Problem] = []
    sound: list[str] = []
    for group in grouped(arguments):
        found = list(_problems_of_one(part, group, fields, beside))
        problems += found
        sound += [] if found else group
    if problems and sound:
        _, _, told = _parsed(part, sound)
    named = {_dotted(option): option for option in fields}
    for line in told:
        where, _, what = line.partition(": ")
        if where in named:
            problems.append(Problem(f"`{named[where]}`: {what}"))
    if not problems:  # but of several fields together
        raise problems_error("command line", told)
    raise one_error(problems, overrides.listing)


def _parsed(
    part: AnyPart, arguments: Sequence[str]
) -> tuple[AnyPart | None, Sequence[str], list[str]]:
    """The changed part, None if tyro refuses the arguments; those that nothing takes; and what the
    parts find wrong with their fields.
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
            if not collector.failed:  # else a consequence of a part with a wrong field
                raise
            value, left = part, []
    return value, left, problems_of(collector)


def _problems_of_one(
    part: Part, group: list[str], fields: dict[str, Field], beside: Collection[str]
) -> Iterator[Problem]:
    """What is wrong with an option and its values, whatever the other options are."""
    option, equals, first = group[0].partition("=")
    if not option.startswith("-"):
        given = quoted(group)
        yield Problem(f"{given} belongs to no option", "fields are given as `--method.r 16`")
        return
    value, left, _ = _parsed(part, group)
    if value is not None and group[0] in left:
        yield no_such_option(option, [*fields, *beside, "--help"])
    elif value is not None and left:
        yield Problem(f"`{option}` does not take {quoted(left)}", _opposite(option, fields))
    elif value is None:
        values = [first, *group[1:]] if equals else group[1:]
        yield Problem(_refused(option, values, fields))


def _refused(option: str, values: list[str], fields: dict[str, Field]) -> str:
    """Why an option does not take its values."""
    if not values:
        return f"`{option}` needs a value"
    if owner_field := fields.get(option.replace("_", "-")):
        owner, field = owner_field
        given: Any = values[0] if len(values) == 1 else values
        try:
            type(owner).model_validate({**dict(owner), field: given})
        except ValidationError as error:
            whys = [line.partition(": ")[2] for line in describe(error, type(owner), (field,))]
            return f"`{option}`: {'; '.join(dict.fromkeys(whys))}"
        except RecipeError:
            pass
    return f"`{option}` does not take {quoted(values)}"


def _opposite(option: str, fields: dict[str, Field]) -> str:
    """For an option that takes no value: how to say no."""
    owner, _, last = option.rpartition(".")
    no = f"{owner}.no-{last}" if owner else f"--no-{last.removeprefix('--')}"
    return f"it takes no value; `{no}` is its opposite" if no in fields else ""


def _options(part: Part, prefix: str = "--") -> Iterator[tuple[str, Field]]:
    """Each option of a part, as tyro names it, and the field that it sets."""
    for field in type(part).model_fields:
        value, name = getattr(part, field), prefix + field.replace("_", "-")
        if isinstance(value, Part):
            yield from _options(value, f"{name}.")
        else:
            yield name, (part, field)
            if isinstance(value, bool):
                yield f"{prefix}no-{field.replace('_', '-')}", (part, field)


def _dotted(option: str) -> str:
    """`training.batch_size` for `--training.batch-size`."""
    return option.removeprefix("--").replace("-", "_")
