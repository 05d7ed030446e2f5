"""Prints the number of rows, or of entities, per label and split, in few lines even for hundreds
of labels.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping

from rich.columns import Columns
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peftkit.data.ledger import Ledger
from peftkit.wording import shortened

MOST_LINES = 12
"""Largest number of labels printed one per line. If there are more, they are only counted, or
printed side by side on request."""
MOST_NAMED = 160
"""Largest number of labels printed side by side. If there are more, the most frequent 80 and the
rarest 80 are printed."""
LONGEST_NAME, ITS_END = 28, 8
"""Length of a shortened label, and of the end that it keeps, in characters. Two columns of such
labels fit a terminal of 80 characters."""


def print_strata(console: Console, ledger: Ledger, whole: bool) -> None:
    """Prints each label's number of rows, or of entities, in each split, the most frequent label
    first. Prints nothing if rows have no labels.

    Args:
        whole: whether to name the labels even if there are more than `MOST_LINES`.
    """
    counts = {name: split.strata for name, split in ledger.splits.items()}
    total = strata_of(counts.values())
    if not total:
        return
    names = list(total)
    title = ledger.stratum or "label"
    if len(names) <= MOST_LINES:
        table = Table(box=None, padding=(0, 1), header_style="dim")
        table.add_column(ledger.strata_title)
        for split in counts:
            table.add_column(split, justify="right")
        for name in names:
            table.add_row(shown(name), *(f"{split.get(name, 0):,}" for split in counts.values()))
        console.print(table, highlight=False)
        return
    if not whole:
        low, high = total[names[-1]], total[names[0]]
        console.print(
            f"  {len(names):,} values of `{title}`, {low:,} to {high:,} {ledger.counted} each",
            highlight=False,
        )
        return
    shown_names = names if len(names) <= MOST_NAMED else [*names[:80], *names[-80:]]
    left_out = len(names) - len(shown_names)
    console.print(
        f"  {len(names)} values of `{title}`, {ledger.counted} in {' + '.join(counts)}"
        + (f", {left_out} of them not shown" if left_out else ""),
        style="dim",
        highlight=False,
    )
    cells = []
    for name in shown_names:
        rows = "+".join(f"{split.get(name, 0):,}" for split in counts.values())
        cells.append(f"{shown(name)} [dim]{rows}[/]")
    console.print(Columns(cells, padding=(0, 3), column_first=True), highlight=False)


def strata_of(splits: Iterable[Mapping[str, int]]) -> dict[str, int]:
    """Label -> number of rows in all splits, the most frequent label first; empty without labels.

    Args:
        splits: for each split, label -> number of rows.
    """
    total: Counter[str] = Counter()
    for split in splits:
        total.update(split)
    if set(total) <= {""}:
        return {}
    return dict(sorted(total.items(), key=lambda item: (-item[1], item[0])))


def shown(name: str) -> str:
    """A label as the console shows it: on one line, shortened if it is long."""
    plain = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    return escape(shortened(plain, LONGEST_NAME, ITS_END))
