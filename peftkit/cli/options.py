"""Defines the options of the commands on adapters; peftkit/cli/adapters.py runs them."""

from __future__ import annotations

import argparse
from typing import Any

from peftkit.cli.groups import SUMMARIES
from peftkit.deploy.rewinding.scales import DEFAULT
from peftkit.tasks.input_options import InputOption, flag
from peftkit.tasks.task import Task


def add_adapter_commands(commands: Any) -> None:
    """Adds the adapter commands to `commands`, which a parser's `add_subparsers` returned."""
    _add_predict(commands)
    _add_chat(commands)
    verify = commands.add_parser("verify", description=SUMMARIES["verify"])
    _add_adapter_options(verify)
    _add_convert(commands)
    _add_merge(commands)
    _add_export(commands)
    _add_rewind(commands)


def input_options() -> dict[str, InputOption]:
    """The options of all tasks that give an input, by their names with underscores."""
    tasks = [kind for kind in Task.kinds.values() if issubclass(kind, Task)]
    found: dict[str, InputOption] = {}
    for task in tasks:
        found = {**task.input_options, **found}
    return found


def _add_predict(commands: Any) -> None:
    predict = commands.add_parser("predict", description=SUMMARIES["predict"])
    _add_adapter_options(predict)
    for name, option in input_options().items():
        predict.add_argument(flag(name), action="append", default=[], help=option.help)
    predict.add_argument("--file", default="", help="rows to answer, with the recipe's columns")
    predict.add_argument("--out", default="", help="new .csv file for --file")
    predict.add_argument("--encoding", default="", help="encoding of --file, if not UTF-8")


def _add_chat(commands: Any) -> None:
    chat = commands.add_parser("chat", description=SUMMARIES["chat"])
    _add_adapter_options(chat)
    chat.add_argument("--once", default=None, metavar="TEXT", help="one question, for scripts")
    chat.add_argument("--compare", action="store_true", help="base and tuned model side by side")
    chat.add_argument(
        "--system", default=None, metavar="TEXT",
        help='system prompt, "" for none; the one of the training if not given',
    )  # fmt: skip


def _add_convert(commands: Any) -> None:
    text = "convert the tensors of a pickle (.bin) to a safetensors file beside it"
    convert = commands.add_parser("convert", description=text)
    convert.add_argument("path", help="adapter folder or .bin file")
    convert.add_argument("--json", action="store_true", help="one JSON object on stdout")
    convert.add_argument("--debug", action="store_true", help="show tracebacks")


def _add_merge(commands: Any) -> None:
    text = "merge an adapter into its base's weights, with a proof that the answers are the same"
    merge = commands.add_parser("merge", description=text)
    _add_adapter_options(merge)
    merge.add_argument("--output", required=True, metavar="DIR", help="new folder for the model")
    merge.add_argument(
        "--into", choices=("trained", "original", "requantized"), default="trained",
        help="for a quantized base, merge into: its dequantized weights (trained), the original "
        "weights (original), or its dequantized weights, quantized again (requantized)",
    )  # fmt: skip
    merge.add_argument(
        "--scale",
        type=float,
        default=1.0,
        help="factor on a LoRA's weight update; 1 is as trained",
    )


def _add_export(commands: Any) -> None:
    export = commands.add_parser("export", description=SUMMARIES["export"])
    _add_adapter_options(export)
    export.add_argument(
        "--to",
        required=True,
        help="format: peft, vllm, safetensors (merged), gguf-lora, gguf, ollama",
    )
    export.add_argument("--output", required=True, metavar="PATH", help="new file or folder")
    export.add_argument(
        "--quantize", default="", help="number format of a GGUF file: f32, f16 or q8_0"
    )
    export.add_argument(
        "--tokenizer-from", default="", metavar="FILE",
        help="GGUF file with the tokenizer to copy",
    )  # fmt: skip


def _add_rewind(commands: Any) -> None:
    text = "find the strength at which an adapter keeps what it learned and forgets least"
    part = commands.add_parser("rewind", description=text)
    _add_adapter_options(part)
    part.add_argument(
        "--scales", default=DEFAULT,
        help="scales to score: a range, in steps of 0.1, or `0.2,0.5,1`; 1 is as trained, 0 the "
        f"base ({DEFAULT} if not given)",
    )  # fmt: skip
    part.add_argument(
        "--retain", default="", metavar="PATH",
        help="data on which the model should not get worse: general text for a language model "
        "(movie reviews if not given); for other tasks rows of another domain, with the columns "
        "of the training",
    )  # fmt: skip
    part.add_argument("--retain-text", default="text", metavar="NAME", help="column with the text")
    part.add_argument("--retain-subset", default="", metavar="NAME", help="subset of --retain")
    part.add_argument("--retain-rows", type=int, metavar="N", help="use at most N rows")
    part.add_argument(
        "--choose", default="", metavar="S", help="write this scale instead of the best one"
    )
    part.add_argument(
        "--tolerance", type=float, default=0.0, metavar="X",
        help="how far the validation score may fall below the trained adapter's (0 if not given)",
    )  # fmt: skip
    part.add_argument(
        "--output", default="", metavar="DIR", help="new folder (RUN-rewound if not given)"
    )


def _add_adapter_options(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "run",
        help="run folder (runs/NAME@latest for the newest of its name), adapter folder, Hub id",
    )
    parser.add_argument("--base", default="", help="the base, if it is not where the recipe says")
    parser.add_argument(
        "--trust-module", action="append", default=[], metavar="NAME",
        help="import this module or .py file, which defines the task or method of the adapter",
    )  # fmt: skip
    parser.add_argument(
        "--trust-remote-code", action="store_true", help="run code from the base's repository"
    )
    parser.add_argument(
        "--adapter-setting", action="append", default=[], metavar="NAME=VALUE",
        help="value for a field missing in another program's adapter_config.json, such as "
        "lora_alpha=16; may be repeated",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
