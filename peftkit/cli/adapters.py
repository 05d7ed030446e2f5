"""The commands on adapters: verify, convert, predict, chat, merge, export and rewind.

torch is imported after the options and files are checked.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.adapters.hub import find_adapter, local_path
from peftkit.adapters.inspection.settings import parse_settings
from peftkit.atomic import output_path, refuse_taken
from peftkit.bases.quiet_libraries import quiet_libraries
from peftkit.cli.options import input_options
from peftkit.data.source import Source, is_encoding
from peftkit.deploy.exporting.request import FILES, check_choices
from peftkit.deploy.rewinding.scales import parse_choice, parse_scales
from peftkit.errors import OutputError, RecipeError
from peftkit.evaluation.retention import Retention
from peftkit.reports.terminal import open_console
from peftkit.tasks.input_options import flag
from peftkit.training.threads import use_usable_cpus
from peftkit.wording import plural

if TYPE_CHECKING:
    from rich.console import Console


def adapter_command(options: argparse.Namespace) -> None:
    """Runs the command named in `options.command`."""
    commands = {
        "verify": _verify, "predict": _predict, "chat": _chat, "merge": _merge, "export": _export,
        "rewind": _rewind, "convert": _convert,
    }  # fmt: skip
    commands[options.command](options)


def _open_libraries() -> None:
    """Checks that the model libraries are installed, and configures them before their import."""
    quiet_libraries()
    from peftkit.bases.products import use_fast_products

    use_usable_cpus()
    use_fast_products()


def _convert(options: argparse.Namespace) -> None:
    from peftkit.adapters.published.conversion import convert

    converted = convert(options.path)
    if options.json:
        print(json.dumps({"converted": [file.to_json() for file in converted]}, ensure_ascii=False))
        return
    for file in converted:
        shared = f", {file.shared} of them shared storage" if file.shared else ""
        print(f"{file.output}: {file.tensors} tensors{shared}, read back and compared")


def _verify(options: argparse.Namespace) -> None:
    from peftkit.adapters.verifying import verify
    from peftkit.training.progress import Stages, line_printer

    settings = parse_settings(options.adapter_setting)
    if settings:
        _open_libraries()  # PEFT defines the fields
    console = open_console(options.json)
    stages = Stages(line_printer(console))
    how = options.trust_remote_code, _open_libraries, settings, stages
    findings = verify(options.run, options.base, *how)
    findings.print(console, f"{options.run}")
    if options.json:
        print(json.dumps(findings.to_json(), ensure_ascii=False))
    if findings.exit_code:
        sys.exit(findings.exit_code)


def _predict(options: argparse.Namespace) -> None:
    _check_predict(options)
    _check_rows(options)
    how = options.trust_remote_code, parse_settings(options.adapter_setting)
    _open_libraries()
    from peftkit.deploy.answering.predicting import answer_file, answer_texts
    from peftkit.training.progress import line_printer

    say = line_printer(open_console(json_on_stdout=True))  # stdout is for the answers
    if options.file:
        files = Path(options.file), Path(options.out)
        count = answer_file(options.run, options.base, *files, options.encoding, *how, say)
        summary = {"rows": count, "out": options.out}
        message = f"{plural(count, 'row')} answered in {options.out}"
        print(json.dumps(summary) if options.json else message)
        return
    asked, answers = answer_texts(options.run, options.base, _given(options), *how, say)
    if options.json:
        replies = [{**one, **asdict(answer)} for one, answer in zip(asked, answers, strict=True)]
        print(json.dumps({"answers": replies}, ensure_ascii=False))
        return
    for text, answer in zip(options.text, answers, strict=True):
        print(answer.line(text))


def _given(options: argparse.Namespace) -> dict[str, list[str]]:
    """The values of the options that give inputs, by their names; those not given are left out."""
    return {name: values for name in input_options() if (values := getattr(options, name, None))}


def _check_predict(options: argparse.Namespace) -> None:
    """Raises an error if an option of `predict` is wrong, or contradicts another option."""
    if bool(options.text) == bool(options.file):
        raise RecipeError("give either `--text ...` or `--file rows.csv --out answers.csv`")
    for name, values in _given(options).items():
        if len(values) != len(options.text):
            raise RecipeError(
                f"{len(options.text)} `--text`, but {len(values)} `{flag(name)}`",
                f"give one `{flag(name)}` for each `--text`",
            )
        if empty := [number for number, text in enumerate(values, start=1) if not text.strip()]:
            raise RecipeError(f"`{flag(name)}` number {empty[0]} is empty", "give it some text")
    if options.out and not options.file:
        raise RecipeError(
            "`--out` needs `--file`; the answers to `--text` are printed",
            "remove `--out`, or use `--json`",
        )
    if options.file and not options.out:
        raise RecipeError("`--file` needs `--out answers.csv`")
    if options.encoding and not is_encoding(options.encoding):
        raise RecipeError(f"`--encoding`: no encoding is called `{options.encoding}`")
    if options.out and Path(options.out).suffix.lower() != ".csv":
        raise OutputError(f"`{options.out}` does not end in .csv", "answers are written as CSV")
    if options.out and Path(options.out).exists():
        raise OutputError(
            f"`{options.out}` exists already, and nothing is overwritten", "give another `--out`"
        )


def _check_rows(options: argparse.Namespace) -> None:
    """Raises an error if the adapter's folder or the rows to answer are wrong; loads no weights."""
    find_adapter(options.run)
    from peftkit.adapters.saved_recipe import quick_recipe
    from peftkit.deploy.answering.inputs import given_inputs, read_inputs, read_table

    recipe = quick_recipe(local_path(options.run))
    if options.file:
        source = recipe.task.source if recipe else Source(path="-")
        table = read_table(Path(options.file), source, options.encoding)
        if recipe:
            read_inputs(recipe.task.adapt_inputs(table), recipe.task)
    elif recipe:
        for one in given_inputs(_given(options), recipe.task):
            recipe.task.as_input(one)


def _chat(options: argparse.Namespace) -> None:
    if options.json and options.once is None:
        raise RecipeError("`--json` is for `--once`; a conversation is not a JSON object")
    if options.once is not None and not options.once.strip():
        raise RecipeError("`--once` is empty", "give it a question")
    find_adapter(options.run)
    settings = parse_settings(options.adapter_setting)
    _open_libraries()
    from peftkit.deploy.answering.chatting import answer_once, converse, open_chat

    where = options.run, options.base, options.trust_remote_code
    adapter = open_chat(*where, settings, options.system)
    if options.once is None:
        converse(adapter, options.compare, open_console(False))
        return
    answers = answer_once(adapter, options.once, options.compare)
    if options.json:
        print(json.dumps(answers, ensure_ascii=False))
    elif options.compare:
        print(f"base: {answers['base']}\n\ntuned: {answers['reply']}")
    else:
        print(answers["reply"])


def _merge(options: argparse.Namespace) -> None:
    if not math.isfinite(options.scale):
        raise RecipeError(f"`--scale` is {options.scale}", "give a number; 1 is the trained scale")
    _check_paths(options)
    settings = parse_settings(options.adapter_setting)
    _open_libraries()
    from peftkit.deploy.merging.merge import merge_to
    from peftkit.reports.console import print_merge

    how = options.into, options.scale, options.base, options.trust_remote_code
    console = open_console(options.json)
    report = merge_to(options.run, options.output, *how, _stage_printer(console), settings)
    print_merge(console, report, options.output)
    if options.json:
        print(json.dumps({"folder": options.output, **report.to_json()}, ensure_ascii=False))


def _rewind(options: argparse.Namespace) -> None:
    scales, chosen = parse_scales(options.scales), parse_choice(options.choose)
    retention = _retention(options)
    if not 0 <= options.tolerance < math.inf:
        raise RecipeError(f"`--tolerance` is {options.tolerance:g}", "give 0 or more")
    _check_paths(options)
    settings = parse_settings(options.adapter_setting)
    _open_libraries()
    from peftkit.deploy.rewinding.rewind import rewind
    from peftkit.reports.console import print_rewind

    console = open_console(options.json)
    where = options.output, options.base, options.trust_remote_code
    how = _stage_printer(console), options.tolerance, settings
    done = rewind(options.run, scales, retention, chosen, *where, *how)
    print_rewind(console, done.report)
    console.print(f"  folder  {done.folder}", highlight=False, soft_wrap=True)
    if options.json:
        content = {"folder": str(done.folder), **done.report.to_json()}
        print(json.dumps(content, ensure_ascii=False))


def _stage_printer(console: Console) -> Callable[[str], None]:
    """Returns a function that prints the name of a stage."""
    return lambda stage: console.print(f"  [dim]{stage}[/]", highlight=False)


def _retention(options: argparse.Namespace) -> Retention | None:
    """Returns the data that the `--retain` options name; None if none of them was given."""
    if options.retain_rows is not None and options.retain_rows < 1:
        raise RecipeError(f"`--retain-rows` is {options.retain_rows}", "give 1 or more")
    if not options.retain_text:
        raise RecipeError("`--retain-text` is empty", "name the column with the text")
    fields = {
        "path": options.retain, "text": options.retain_text, "subset": options.retain_subset,
        "max_rows": options.retain_rows,
    }  # fmt: skip
    fields = {name: value for name, value in fields.items() if value}
    return Retention(**fields) if set(fields) != {"text"} or fields["text"] != "text" else None


def _check_paths(options: argparse.Namespace, a_file: bool = False) -> None:
    """Raises an error if there is no adapter or the output is not writable; loads nothing."""
    find_adapter(options.run)
    if options.output:
        refuse_taken(output_path(options.output), a_file)


def _export(options: argparse.Namespace) -> None:
    check_choices(options.to, options.quantize)
    _check_paths(options, options.to in FILES)
    settings = parse_settings(options.adapter_setting)
    _open_libraries()
    from peftkit.deploy.exporting.export import export

    done = export(
        options.run, options.to, options.output, options.base,
        quantize=options.quantize, tokenizer_from=options.tokenizer_from,
        trust_remote_code=options.trust_remote_code, settings=settings,
    )  # fmt: skip
    if options.json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
        return
    print(f"{done.output}, {done.size / 1e6:.1f} MB, read back and compared")
    for note in done.notes:
        print(f"note: {note}")
