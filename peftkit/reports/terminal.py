"""Opens the console for a command's output, and prints notes."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def open_console(json_on_stdout: bool) -> Console:
    """Opens a console, on stderr if stdout is for JSON; it is silent outside the main process."""
    from rich.console import Console

    return Console(stderr=json_on_stdout, quiet=os.environ.get("RANK", "0") != "0")


def print_note(console: Console, text: str) -> None:
    """Prints a note. In a log, the note is one line, so that it can be searched."""
    console.print(f"  [yellow]note:[/] {text}", highlight=False, soft_wrap=not console.is_terminal)
