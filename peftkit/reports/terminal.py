"""What a command prints to, and what must not come between."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console


def open_console(json_on_stdout: bool) -> Console:
    """Of the main process; on stderr where stdout holds JSON."""
    from rich.console import Console

    return Console(stderr=json_on_stdout, quiet=os.environ.get("RANK", "0") != "0")


def print_note(console: Console, text: str) -> None:
    """Prints a note; on one line where a log is written, which people search."""
    console.print(f"  [yellow]note:[/] {text}", highlight=False, soft_wrap=not console.is_terminal)
