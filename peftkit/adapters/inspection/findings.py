"""What was found about an adapter, one check at a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.console import Console
from rich.text import Text


@dataclass(frozen=True)
class Finding:
    """One check and its result."""

    check: str
    result: Literal["ok", "note", "wrong"]
    """`wrong` if the model would answer otherwise than the one that was trained, or would not load;
    `note` for what a person should know, or what cannot be told.
    """
    found: str
    meaning: str = ""
    advice: str = ""


def _plain(text: str) -> str:
    """Without characters by which a text could act on a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@dataclass
class Findings:
    """All that was found, in the order of the checks."""

    all: list[Finding] = field(default_factory=list)
    is_adapter: bool = True
    """False where another program wrote the folder, for something else."""

    def ok(self, check: str, found: str, meaning: str = "") -> None:
        """Records a check that passed."""
        self.all.append(Finding(check, "ok", _plain(found), meaning))

    def note(self, check: str, found: str, meaning: str = "", advice: str = "") -> None:
        """Records what a person should know."""
        self.all.append(Finding(check, "note", _plain(found), meaning, _plain(advice)))

    def wrong(self, check: str, found: str, meaning: str = "", advice: str = "") -> None:
        """Records what changes the answers, or must not be loaded."""
        self.all.append(Finding(check, "wrong", _plain(found), meaning, _plain(advice)))

    def judge(self, check: str, wrong: Iterable[str], fine: str, meaning: str, advice: str) -> None:
        """Each of the things that are wrong, or that all is fine."""
        listed = list(wrong)
        for found in listed:
            self.wrong(check, found, meaning, advice)
        if not listed:
            self.ok(check, fine)

    @property
    def problems(self) -> list[Finding]:
        """Those that are wrong."""
        return [finding for finding in self.all if finding.result == "wrong"]

    def print(self, console: Console, title: str) -> None:
        """A table that a person reads, and a last line that says what it comes to."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("check", "result", "what was found"):
            table.add_column(column, overflow="fold", style="bold" if column == "check" else "")
        for finding in self.all:
            style = {"ok": "green", "note": "yellow", "wrong": "bold red"}[finding.result]
            lines = [finding.found, finding.meaning, finding.advice and f"→ {finding.advice}"]
            told = Text("\n".join(line for line in lines if line))
            table.add_row(finding.check, Text(finding.result, style=style), told)
        console.print(table, highlight=False)
        wrong, notes = len(self.problems), sum(f.result == "note" for f in self.all)
        if not self.is_adapter:
            console.print("\n  no adapter that peftkit loads", style="bold red")
        elif wrong:
            console.print(f"\n  {wrong} wrong: do not use it", style="bold red")
        else:
            last = f"; {notes} to know" if notes else ""
            console.print(f"\n  nothing is wrong with what could be checked{last}", style="green")

    @property
    def exit_code(self) -> int:
        """Of `peftkit verify`: 0 where nothing is wrong, 1 where something is, 2 for no adapter."""
        return 2 if not self.is_adapter else 1 if self.problems else 0

    def to_json(self) -> dict[str, object]:
        """For `--json`: `status` and `findings`."""
        return {
            "status": "wrong" if self.problems else "ok",
            "findings": [asdict(finding) for finding in self.all],
        }
