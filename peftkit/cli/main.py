"""The command line: `peftkit COMMAND`, and `main` for recipe scripts.

Only what every command needs is imported here; torch is loaded when a recipe turned out to be
good.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from peftkit.bases.packages import named_packages
from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.cli.adapters import adapter_command
from peftkit.cli.compare import add_compare, compare_command
from peftkit.cli.options import add_adapter_commands
from peftkit.errors import (
    BaseModelError,
    OutputError,
    PeftkitError,
    RecipeError,
    first_line,
    not_found,
)
from peftkit.parts.problems import all_problems
from peftkit.parts.scripts import import_file, import_trusted, refuse_shadowing, script_errors
from peftkit.recipe import Recipe, recipe_schema
from peftkit.reports.terminal import open_console, print_note
from peftkit.stages.run_folder import taken_name
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
        _run(_recipe_of(recipe, script, overrides), options, script)

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
        _new(options.name)
    elif options.command == "compare":
        from peftkit.stages.early import look

        recipes = [_recipe_in(Path(file), overrides) for file in options.files]
        with _beside(Path(options.files[0])):
            look(recipes[0])  # the others have the same base and data
        compare_command(recipes, options)
    elif options.command in RECIPE_COMMANDS:
        file = Path(options.file)
        recipe = _recipe_in(file, overrides)
        {"run": _run, "check": _check, "plan": _plan}[options.command](recipe, options, file)
    else:
        adapter_command(options)


def _recipe_in(file: Path, overrides: list[str]) -> Recipe:
    """The recipe of a script or a recipe.json, with overrides."""
    if file.is_dir():
        found = next(
            (name for name in ("recipe.json", "recipes/*.json") if any(file.glob(name))), ""
        )
        raise RecipeError(f"`{file}` is a folder", f"try `{file / found}`" if found else "")
    if not file.is_file():
        raise RecipeError(f"no file `{file}`", not_found(file))
    if file.suffix not in (".py", ".json"):
        raise RecipeError(
            f"`{file}` is no recipe: its name ends in neither .py nor .json",
            "`peftkit new NAME` writes one to start from",
        )
    if file.suffix == ".py":
        module = import_file(file)
        if not callable(getattr(module, "recipe", None)):
            raise RecipeError(
                f"`{file}` has no function `recipe`", "`peftkit new NAME` writes one to start from"
            )
        return _recipe_of(module.recipe, file, overrides)
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise RecipeError(f"`{file}` is not UTF-8 text") from error
    recipe = Recipe.from_json(text, str(file))
    return _overridden(recipe, file, overrides)


def _recipe_of(build: Callable[[], Recipe], file: Path, overrides: list[str]) -> Recipe:
    with all_problems(str(file)), script_errors(file):
        recipe = build()
    if not isinstance(recipe, Recipe):
        raise RecipeError(f"`recipe()` in {file} returns {type(recipe).__name__}, not a Recipe")
    return _overridden(recipe, file, overrides)


def _overridden(recipe: Recipe, file: Path, overrides: list[str]) -> Recipe:
    if not recipe.name:
        recipe = recipe.with_(name=_folder_name(file.stem))
    if not overrides:
        return recipe
    import tyro

    with all_problems("command line"):
        return tyro.cli(
            Recipe,
            default=recipe,
            args=overrides,
            prog=file.name,
            description="Also: --output-dir DIR, --json, --debug.",
        )


def _folder_name(stem: str) -> str:
    return "".join(c if c.isalnum() or c in "_-." else "-" for c in stem).lstrip("-.") or "run"


@contextlib.contextmanager
def _beside(script: Path) -> Iterator[None]:
    """Inside, an error about a file that is missing says so if it lies beside the script."""
    try:
        yield
    except PeftkitError as error:
        if error.missing and not error.missing.is_absolute():
            there = script.parent / error.missing
            if there.exists():
                error.hint = (
                    f"it lies beside the script: give `{os.path.relpath(there)}`, as paths are "
                    f"looked for in the current folder, `{Path.cwd()}`"
                )
        raise


def _run(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    from peftkit.stages.early import look

    with _beside(file):
        rows = look(recipe, options.output_dir)
    console = open_console(options.json)
    console.print(
        f"[bold]{recipe.name}[/]  {recipe.method.kind()} on {recipe.base.name_or_path}, "
        f"{recipe.task.kind()}",
        highlight=False,
        soft_wrap=True,
    )
    if other := taken_name(recipe.name, options.output_dir):
        console.print(
            f"  [yellow]note:[/] `{other.parent / recipe.name}` exists; this run goes to "
            f"`{other}`; `{other.parent / recipe.name}@latest` names the newest",
            highlight=False,
            soft_wrap=True,
        )
    quiet_libraries()
    from peftkit.run import run

    done = run(recipe, options.output_dir, console, rows=rows)
    if done.record is None:
        return
    console.print(f"  adapter  {done.folder / 'adapter'}", highlight=False, soft_wrap=True)
    console.print(f"  receipt  {done.folder / 'receipt.html'}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps({"folder": str(done.folder), **done.record.to_json()}, ensure_ascii=False))


def _check(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    from peftkit.stages.early import look

    with _beside(file):
        rows = look(recipe)
    quiet_libraries()
    from peftkit.reports.console import print_example, print_ledger
    from peftkit.stages.preparing import prepare

    prepared = prepare(recipe, rows)
    console = open_console(options.json)
    print_ledger(console, prepared.ledger, whole=True)
    unmergeable = recipe.method.supports_merging(prepared.base.spec)
    console.print(
        f"\n  {recipe.method.kind()} trains {prepared.trainable_parameters:,} of "
        f"{prepared.total_parameters:,} parameters\n"
        f"  merging: {unmergeable or 'into the weights it was trained on'}\n\n"
        "  the first training example:",
        highlight=False,
        soft_wrap=True,
    )
    print_example(console, prepared.example())
    console.print("\n  nothing is wrong that can be told without weights", style="green")
    if options.json:
        value = {
            "recipe": json.loads(recipe.model_dump_json()),
            "trainable_parameters": prepared.trainable_parameters,
            "total_parameters": prepared.total_parameters,
            "merging_refused": unmergeable or "",
            "ledger": prepared.ledger.to_json(),
            "example": [asdict(piece) for piece in prepared.example()],
        }
        print(json.dumps(value, ensure_ascii=False))


def _plan(recipe: Recipe, options: argparse.Namespace, file: Path) -> None:
    from peftkit.stages.early import look

    with _beside(file):
        rows = look(recipe)
    quiet_libraries()
    from peftkit.bases.devices import open_accelerator
    from peftkit.reports.console import print_plan
    from peftkit.run import plan
    from peftkit.stages.preparing import prepare
    from peftkit.training.threads import cpu_threads

    prepared = prepare(recipe, rows)
    try:
        with cpu_threads(prepared.recipe.training.threads or 1):
            planned = plan(prepared, open_accelerator(prepared.recipe.base), timed=True)
    except (MemoryError, RuntimeError, ValueError, TypeError, AttributeError, KeyError) as error:
        if isinstance(error, PeftkitError):
            raise
        raise BaseModelError(
            f"no small copy of `{prepared.base.name}` could be measured: "
            f"{type(error).__name__}: {first_line(error)}",
            "train it without a plan, or lower `training.micro_batch_tokens` if memory ran out",
        ) from error
    console = open_console(options.json)
    print_plan(console, planned)
    for note in prepared.ledger.notes:
        print_note(console, note)
    if options.json:
        print(json.dumps(planned.to_json(), ensure_ascii=False))


def _new(name: str) -> None:
    from importlib import resources

    file = Path(f"{name.removesuffix('.py')}.py")
    if _folder_name(file.stem) != file.stem:
        raise RecipeError(f"`{file.stem}` is no name for a file", "use letters, digits, `-`, `_`")
    refuse_shadowing(file)
    template = (
        resources.files("peftkit.cli").joinpath("new_recipe.py.txt").read_text(encoding="utf-8")
    )
    try:
        with file.open("x", encoding="utf-8") as opened:
            opened.write(template.replace("NAME", file.stem))
    except FileExistsError:
        raise OutputError(f"`{file}` exists already, and nothing is overwritten") from None
    except OSError as error:
        raise OutputError(f"cannot write `{file}`: {error.strerror}") from error
    print(f"wrote {file}\n\n  python {file} --help\n  python {file}")


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
