"""The commands on what a run has left: `peftkit verify`, `predict`, `chat`, `merge`, `export` and
`rewind`.

torch is loaded when what was asked for turned out to be possible.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from pathlib import Path
from typing import Any

from peftkit.adapters.requests import check_choices
from peftkit.adapters.scales import DEFAULT, parse_choice, parse_scales
from peftkit.errors import OutputError, RecipeError
from peftkit.evaluation.retention import Retention
from peftkit.terminal import open_console, plural, quiet_libraries


def add_adapter_commands(commands: Any) -> None:
    """Adds the commands' options to a parser's `add_subparsers`."""
    _add_predict(commands)
    _add_chat(commands)
    verify = commands.add_parser(
        "verify", help="tell whether an adapter is what it says; 1 if not, 2 if it is none"
    )
    _add_adapter_options(verify)
    _add_merge(commands)
    _add_export(commands)
    _add_rewind(commands)


def adapter_command(options: argparse.Namespace) -> None:
    """Does what was asked for."""
    does = {
        "verify": _verify, "predict": _predict, "chat": _chat, "merge": _merge, "export": _export,
        "rewind": _rewind,
    }  # fmt: skip
    does[options.command](options)


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", help="answer texts with a trained adapter")
    _add_adapter_options(predict)
    predict.add_argument("--text", action="append", default=[], help="a text; may be repeated")
    predict.add_argument("--text-pair", action="append", default=[], help="its second text")
    predict.add_argument("--file", default="", help="rows to answer, with the recipe's columns")
    predict.add_argument("--out", default="", help="new .csv file for --file")


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser("chat", help="talk with a trained model")
    _add_adapter_options(chat)
    chat.add_argument("--once", default=None, metavar="TEXT", help="one question, for scripts")
    chat.add_argument("--compare", action="store_true", help="base and tuned model side by side")


def _add_merge(commands: Any) -> None:
    text = "fold an adapter into its base's weights, with a proof that the answers are the same"
    merge = commands.add_parser("merge", help=text, description=text)
    _add_adapter_options(merge)
    merge.add_argument("--output", required=True, metavar="DIR", help="new folder for the model")
    merge.add_argument(
        "--into", choices=("trained", "original", "requantized"), default="trained",
        help="of a base that was quantized: its dequantized weights, which were trained on; the "
        "original ones; or the trained ones, quantized again",
    )  # fmt: skip
    merge.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="strength of what a LoRA adds to the weights; 1 is as it was trained",
    )


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", help="write an adapter for other programs")
    _add_adapter_options(export)
    export.add_argument(
        "--to", required=True, help="peft, vllm, safetensors (merged), gguf-lora, gguf, ollama"
    )
    export.add_argument("--output", required=True, metavar="PATH", help="new file or folder")
    export.add_argument("--quantize", default="", help="f32, f16 or q8_0")
    export.add_argument("--tokenizer-from", default="", metavar="FILE", help="a GGUF file")


def _add_rewind(commands: Any) -> None:
    text = "find the strength at which an adapter keeps what it learned and forgets least"
    part = commands.add_parser("rewind", help=text, description=text)
    _add_adapter_options(part)
    part.add_argument(
        "--scales", default=DEFAULT,
        help="a range, in steps of 0.1, or `0.2,0.5,1`; 1 is as trained, 0 the base "
        f"({DEFAULT} if not given)",
    )  # fmt: skip
    part.add_argument(
        "--retain", default="", metavar="PATH",
        help="what the model is to keep: general text for a language model (movie reviews if not "
        "given), for other tasks rows of another domain, with the columns of the training",
    )  # fmt: skip
    part.add_argument("--retain-text", default="text", metavar="NAME", help="column with the text")
    part.add_argument("--retain-subset", default="", metavar="NAME", help="as of a recipe's data")
    part.add_argument("--retain-rows", type=int, metavar="N", help="use only so many rows")
    part.add_argument("--choose", default="", metavar="S", help="write this scale")
    part.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X",
        help="how much worse the validation score may be than as it was trained (0)",
    )  # fmt: skip
    part.add_argument("--output", default="", metavar="DIR", help="new folder; RUN-rewound")


def _add_adapter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="run folder or adapter folder")
    parser.add_argument("--base", default="", help="the base, if not where the recipe says")
    parser.add_argument("--trust-module", action="append", default=[], metavar="NAME")
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code that lies beside the base"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")


def _verify(options: argparse.Namespace) -> None:
    from peftkit.adapters.verifying import verify
    from peftkit.training.progress import Stages, says

    trust, console = options.trust_remote_code, open_console(options.json)
    stages = Stages(says(console))
    findings = verify(options.run, options.base, trust, quiet_libraries, stages)
    findings.print(console, f"{options.run}")
    if options.json:
        print(json.dumps(findings.to_json(), ensure_ascii=False))
    if findings.problems:
        sys.exit(1)


def _predict(options: argparse.Namespace) -> None:
    if bool(options.text) == bool(options.file):
        raise RecipeError("give either `--text ...` or `--file rows.csv --out answers.csv`")
    if options.text_pair and len(options.text_pair) != len(options.text):
        raise RecipeError(
            f"{len(options.text)} `--text` and {len(options.text_pair)} `--text-pair`",
            "give one pair for each text",
        )
    if options.file and not options.out:
        raise RecipeError("`--file` needs `--out answers.csv`")
    if options.out and Path(options.out).suffix.lower() != ".csv":
        raise OutputError(f"`{options.out}` does not end in .csv", "answers are written as CSV")
    if options.out and Path(options.out).exists():
        raise OutputError(
            f"`{options.out}` exists already, and nothing is overwritten", "give another `--out`"
        )
    quiet_libraries()
    from peftkit.adapters.answering import answer_file, answer_texts
    from peftkit.training.progress import says

    say = says(open_console(json_on_stdout=True))  # stdout holds the answers
    if options.file:
        files = Path(options.file), Path(options.out)
        count = answer_file(options.run, options.base, *files, options.trust_remote_code, say)
        summary = {"rows": count, "out": options.out}
        print(
            json.dumps(summary)
            if options.json
            else f"{plural(count, 'row')} answered in {options.out}"
        )
        return
    texts = options.text, options.text_pair
    answers = answer_texts(options.run, options.base, *texts, options.trust_remote_code, say)
    if options.json:
        print(json.dumps({"answers": answers}, ensure_ascii=False))
        return
    for answer in answers:
        if "reply" in answer:
            print(answer["reply"])
        else:
            print(f"{answer['label']}  {answer['probability']:.4f}  {answer['text']}")


def _chat(options: argparse.Namespace) -> None:
    if options.json and options.once is None:
        raise RecipeError("`--json` is for `--once`; a conversation is no JSON object")
    if options.once is not None and not options.once.strip():
        raise RecipeError("`--once` is empty", "give it a question")
    quiet_libraries()
    from peftkit.adapters.chatting import answer_once, converse, open_chat

    adapter = open_chat(options.run, options.base, options.trust_remote_code)
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
        raise RecipeError(f"`--scale` is {options.scale}", "give a number; 1 is as it was trained")
    quiet_libraries()
    from peftkit.adapters.merged_folder import merge_to
    from peftkit.evaluation.report import print_merge

    how = options.into, options.scale, options.base, options.trust_remote_code
    console = open_console(options.json)

    def tell(stage: str) -> None:
        console.print(f"  [dim]{stage}[/]", highlight=False)

    report = merge_to(options.run, options.output, *how, tell)
    print_merge(console, report, options.output)
    if options.json:
        print(json.dumps({"folder": options.output, **report}, ensure_ascii=False))


def _rewind(options: argparse.Namespace) -> None:
    scales, chosen = parse_scales(options.scales), parse_choice(options.choose)
    retention = _retention(options)
    if not 0 <= options.tolerance < math.inf:
        raise RecipeError(f"`--tolerance` is {options.tolerance:g}", "give 0 or more")
    quiet_libraries()
    from peftkit.adapters.rewinding import rewind
    from peftkit.evaluation.report import print_rewind

    console = open_console(options.json)

    def tell(stage: str) -> None:
        console.print(f"  [dim]{stage}[/]", highlight=False)

    where = options.output, options.base, options.trust_remote_code
    report = rewind(options.run, scales, retention, chosen, *where, tell, options.tolerance)
    print_rewind(console, report)
    console.print(f"  folder  {report['folder']}", highlight=False, soft_wrap=True)
    if options.json:
        print(json.dumps(report, ensure_ascii=False))


def _retention(options: argparse.Namespace) -> Retention | None:
    """What `--retain` and the options beside it name; None where none was given."""
    if options.retain_rows is not None and options.retain_rows < 1:
        raise RecipeError(f"`--retain-rows` is {options.retain_rows}", "give 1 or more")
    if not options.retain_text:
        raise RecipeError("`--retain-text` is empty", "name the column with the text")
    given = {
        "path": options.retain, "text": options.retain_text, "subset": options.retain_subset,
        "max_rows": options.retain_rows,
    }  # fmt: skip
    given = {name: value for name, value in given.items() if value}
    return Retention(**given) if set(given) != {"text"} or given["text"] != "text" else None


def _export(options: argparse.Namespace) -> None:
    check_choices(options.to, options.quantize)
    quiet_libraries()
    from peftkit.adapters.exporting import export

    done = export(
        options.run, options.to, options.output, options.base,
        quantize=options.quantize, tokenizer_from=options.tokenizer_from,
        trust_remote_code=options.trust_remote_code,
    )  # fmt: skip
    if options.json:
        print(json.dumps(done.to_json(), ensure_ascii=False))
        return
    print(f"{done.output}, {done.size / 1e6:.1f} MB, read back and compared")
    for note in done.notes:
        print(f"note: {note}")
