"""Talks with a trained model: one question, or a conversation at the terminal."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from torch import nn
from transformers import TextStreamer

from peftkit.adapters.loading import LoadedAdapter, load
from peftkit.errors import PeftkitError, RecipeError
from peftkit.tasks.reading.single_message import Message

HELP = "/new begins a new conversation, /system TEXT one with that system prompt, /quit ends"


class _Streamer(TextStreamer):
    """Hands each piece of an answer to `say` as it is generated."""

    def __init__(self, tokenizer: Any, say: Callable[[str], None]) -> None:
        super().__init__(tokenizer, skip_prompt=True, skip_special_tokens=True)
        self._say = say

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Receives the next finished piece of text from `generate`."""
        self._say(text)


def open_chat(
    run: str,
    base: str,
    trust_remote_code: bool = False,
    settings: Mapping[str, object] | None = None,
    system: str | None = None,
) -> LoadedAdapter:
    """Loads the adapter of a chat run, as `load` does, and sets its system prompt.

    Args:
        system: the system prompt; empty for no prompt, None for the training's prompt.

    Raises:
        RecipeError: the adapter's task is not chat.
    """
    adapter = load(run, base, trust_remote_code, settings)
    if adapter.recipe.task.command != "chat":
        raise RecipeError(
            f"`{run}` has not learned to talk: its task is {adapter.recipe.task.kind()}",
            f'ask it with `peftkit predict {run} --text "..."`',
        )
    return adapter if system is None else with_system(adapter, system)


def with_system(adapter: LoadedAdapter, system: str) -> LoadedAdapter:
    """A copy of the adapter with another system prompt.

    Raises:
        RecipeError: the adapter's task has no system prompt.
    """
    task = adapter.recipe.task.asked_with(system)
    return replace(adapter, recipe=adapter.recipe.with_(task=task))


def _print_system(adapter: LoadedAdapter, console: Console) -> None:
    system = adapter.recipe.task.system_prompt
    line = f"system prompt: {escape(system)}" if system else "no system prompt"
    console.print(f"  [dim]{line}[/]", highlight=False)


def answer_once(adapter: LoadedAdapter, text: str, compare: bool) -> dict[str, str]:
    """Returns the adapter's answer as `reply` and, if `compare`, the base's answer as `base`."""
    answers = {"reply": adapter.write([text])[0]}
    if compare:
        answers["base"] = adapter.write([text], adapter.load_base())[0]
    return answers


def converse(adapter: LoadedAdapter, compare: bool, console: Console) -> None:
    """Answers questions typed at the terminal, until the user quits."""
    base = adapter.load_base() if compare else None
    console.print(f"  [dim]{HELP}[/]", highlight=False)
    _print_system(adapter, console)
    tuned_history: list[Message] = []
    base_history: list[Message] = []
    while True:
        try:
            text = console.input("[bold]you[/] ").strip()
        except EOFError:
            return
        except UnicodeDecodeError:
            console.print("the input is not UTF-8 text", style="yellow")
            continue
        if text == "/quit":
            return
        if text == "/new" or text.partition(" ")[0] == "/system":
            tuned_history, base_history = [], []
            if text != "/new":
                adapter = with_system(adapter, text.removeprefix("/system").strip())
                _print_system(adapter, console)
            continue
        if not text or text.startswith("/"):
            console.print(f"  [dim]{HELP}[/]", highlight=False)
            continue
        try:
            _answer(adapter, base, text, tuned_history, base_history, console)
        except PeftkitError as error:
            console.print(f"{error.message}; {HELP}", style="yellow", highlight=False)


def _answer(
    adapter: LoadedAdapter,
    base: nn.Module | None,
    text: str,
    tuned_history: list[Message],
    base_history: list[Message],
    console: Console,
) -> None:
    """Streams the adapter's answer; if `base` is given, prints the base's answer beside it."""
    if base is None:
        streamer = _Streamer(adapter.tokenizer, _say)
        _reply(adapter, None, text, tuned_history, streamer=streamer)
        _say("\n")
        return
    table = Table("base", "tuned", box=None, padding=(0, 2, 0, 0), header_style="dim")
    replies = [_reply(adapter, base, text, base_history)]
    replies.append(_reply(adapter, None, text, tuned_history))
    table.add_row(*replies)
    console.print(table, highlight=False, markup=False)


def _reply(
    adapter: LoadedAdapter,
    model: nn.Module | None,
    text: str,
    history: list[Message],
    **settings: Any,
) -> str:
    """Answers a text, given the history; appends the text and the answer to the history."""
    question: Message = {"role": "user", "content": text}
    [reply] = adapter.write([[*history, question]], model, **settings)
    history += [question, {"role": "assistant", "content": reply}]
    return reply


def _say(text: str) -> None:
    sys.stdout.write(text)
    sys.stdout.flush()
