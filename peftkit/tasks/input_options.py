"""The options of `peftkit predict` that give a task's input."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class InputOption:
    """An option that gives one value of an input, such as `--text`."""

    role: str
    """The task's name for the value, a key of what `as_input` reads."""
    help: str


PAIR = {
    "text": InputOption("text", "a text; may be repeated"),
    "text_pair": InputOption("text_pair", "second text of a pair"),
}
"""Options of tasks that read texts, or pairs of texts."""


def flag(name: str) -> str:
    """The option on the command line: `--text-pair` for `text_pair`."""
    return f"--{name.replace('_', '-')}"
