"""The findings of an adapter's checks, and how they are printed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Literal

from rich.console import Console
from rich.text import Text

from peftkit.wording import plural


@dataclass(frozen=True)
class Finding:
    """One check and its result."""

    check: str
    result: Literal["ok", "note", "wrong"]
    """`wrong`: the adapter would not load, or would answer differently from the trained one;
    `note`: information, or something that cannot be checked; `ok`: the check passed.
    """
    found: str
    meaning: str = ""
    advice: str = ""


def _plain(text: str) -> str:
    """Escapes characters of a text that could control a terminal."""
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


@dataclass
class Findings:
    """All findings, in the order of the checks."""

    all: list[Finding] = field(default_factory=list)
    is_adapter: bool = True
    """False if the folder holds no adapter that peftkit loads."""

    def ok(self, check: str, found: str, meaning: str = "") -> None:
        """Records a passed check."""
        self.all.append(Finding(check, "ok", _plain(found), meaning))

    def note(self, check: str, found: str, meaning: str = "", advice: str = "") -> None:
        """Records an informational finding."""
        self.all.append(Finding(check, "note", _plain(found), meaning, _plain(advice)))

    def wrong(self, check: str, found: str, meaning: str = "", advice: str = "") -> None:
        """Records a problem: something that changes the answers or makes loading unsafe."""
        self.all.append(Finding(check, "wrong", _plain(found), meaning, _plain(advice)))

    def judge(self, check: str, wrong: Iterable[str], fine: str, meaning: str, advice: str) -> None:
        """Records each message in `wrong` as a problem, or the message `fine` as a passed check if
        `wrong` is empty.
        """
        listed = list(wrong)
        for problem in listed:
            self.wrong(check, problem, meaning, advice)
        if not listed:
            self.ok(check, fine)

    @property
    def problems(self) -> list[Finding]:
        """The findings with result `wrong`."""
        return [finding for finding in self.all if finding.result == "wrong"]

    def print(self, console: Console, title: str) -> None:
        """Prints a table of the findings, then the verdict on one line."""
        from rich.table import Table

        table = Table(title=title, title_justify="left", box=None, pad_edge=False)
        for column in ("check", "result", "what was found"):
            table.add_column(column, overflow="fold", style="bold" if column == "check" else "")
        for finding in self.all:
            style = {"ok": "green", "note": "yellow", "wrong": "bold red"}[finding.result]
            lines = [finding.found, finding.meaning, finding.advice and f"→ {finding.advice}"]
            text = Text("\n".join(line for line in lines if line))
            table.add_row(finding.check, Text(finding.result, style=style), text)
        console.print(table, highlight=False)
        wrong, notes = len(self.problems), sum(f.result == "note" for f in self.all)
        if not self.is_adapter:
            console.print("\n  no adapter that peftkit loads", style="bold red")
        elif wrong:
            console.print(f"\n  {wrong} wrong: do not use it", style="bold red")
        else:
            last = f"; {plural(notes, 'note')}" if notes else ""
            console.print(f"\n  nothing is wrong with what could be checked{last}", style="green")

    @property
    def exit_code(self) -> int:
        """Exit code of `peftkit verify`: 0 nothing wrong, 1 problems found, 2 not an adapter."""
        return 2 if not self.is_adapter else 1 if self.problems else 0

    def to_json(self) -> dict[str, object]:
        """The JSON object for `--json`, with `status` and `findings`."""
        return {
            "status": "wrong" if self.problems else "ok",
            "findings": [asdict(finding) for finding in self.all],
        }
