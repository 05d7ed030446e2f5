"""Prints the data ledger, the plan, the scores, and the reports of merges and rewinds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from peftkit.data.ledger import FIRST_ROWS, Ledger, describe_malformed
from peftkit.reports.merge_report import MergeReport
from peftkit.reports.plan_record import Plan
from peftkit.reports.receipt import about_probe
from peftkit.reports.rewind_report import RewindReport
from peftkit.reports.run_record import RunRecord, TestRecord
from peftkit.reports.strata import print_strata
from peftkit.reports.terminal import print_note
from peftkit.tasks.task import Piece
from peftkit.wording import duration, plural

MOST_COLUMNS = 6
"""Largest number of metrics that have a column each."""
SHOWN = 3
"""Largest number of written answers on the console; the receipt shows all."""


def print_ledger(console: Console, ledger: Ledger, whole: bool = False) -> None:
    """Prints short tables of the rows read, the splits and the labels.

    Args:
        whole: whether to name the labels even if there are more than `strata.MOST_LINES`.
    """
    for part in ledger.read:
        console.print(f"  [dim]read[/] {part.name}", highlight=False, soft_wrap=True)
    read = plain_table("", "rows", "malformed", "duplicate", "conflicting", "not drawn", "kept")
    for part in ledger.read:
        bad = sum(map(len, part.malformed.values()))
        numbers = (part.read, bad, part.duplicate, part.conflicting, part.not_drawn, part.kept)
        short = Path(part.name).name if len(ledger.read) > 1 else ""
        read.add_row(short, *map(_count, numbers))
    console.print(read)
    for part in ledger.read:
        if part.malformed:
            reasons = describe_malformed(part.malformed, part.unit)
            console.print(f"  [yellow]skipped in {part.name}:[/] {reasons}", highlight=False)
        if part.continued:
            shown = ", ".join(map(str, part.continued[:FIRST_ROWS]))
            more = ", ..." * (len(part.continued) > FIRST_ROWS)
            console.print(
                f"  [dim]{len(part.continued):,} of {part.num_lines:,} lines continue a quoted "
                f"field of the row above (lines {shown}{more})[/]",
                highlight=False,
            )
    columns = {
        "rows": "rows", "leaked": "leaked", "truncated": "truncated", "too long": "too_long",
        "unsupervised": "unsupervised", "tokens": "tokens", "targets": "supervised",
        "unknown": "unknown",
    }  # fmt: skip
    for rare in ("too long", "unsupervised"):
        if not any(getattr(split, columns[rare]) for split in ledger.splits.values()):
            del columns[rare]
    splits = plain_table("split", *columns)
    for name, split in ledger.splits.items():
        splits.add_row(name, *(_count(getattr(split, column)) for column in columns.values()))
    console.print(splits)
    print_strata(console, ledger, whole)
    for note in ledger.notes:
        print_note(console, note)


def print_scores(console: Console, run: RunRecord) -> None:
    """Prints the test scores before and after training, the baselines, some written answers, time
    and memory. Begins with a warning if the trained model does not beat a baseline.
    """
    test = run.test
    for sentence in test.lead:
        console.print(f"  [bold yellow]{escape(sentence)}[/]", highlight=False)
    table = _score_table(test)
    console.print(table)
    if test.of_samples:
        names = ", ".join(name.replace("_", " ") for name in test.of_samples)
        count = plural(len(test.samples), "written answer")
        console.print(f"  {names}: of {count}", style="dim", highlight=False)
    if note := about_probe(test.probe):
        print_note(console, escape(note))
    for sample in test.samples[:SHOWN]:
        console.print(f"\n  [bold]asked[/]   {escape(sample.prompt)}", highlight=False)
        for when, answer in (("before", sample.before), ("after", sample.after)):
            console.print(f"  [dim]{when:<7}[/] {escape(answer)}", highlight=False)
    share = 100 * run.trainable_parameters / run.total_parameters
    console.print(
        f"  trained {run.trainable_parameters:,} of {run.total_parameters:,} parameters "
        f"({share:.2f} %)\n"
        f"  in {duration(sum(run.seconds.values()))}, "
        f"peak memory {run.peak_memory_mb:,.0f} MB, "
        f"{run.base_memory_mb:,.0f} MB of it the base's weights",
        highlight=False,
    )


def _score_table(test: TestRecord) -> Table:
    """A table of the scores before and after training, the baselines and intervals. Many metrics
    have a row each, a few a column each.
    """
    scores = {"before": test.before, **test.baseline, "after": test.after}
    rows = {
        name: [f"{of[metric]:.4f}" if metric in of else "" for metric in test.after]
        for name, of in scores.items()
    }
    intervals = (test.intervals.get(metric, (0, 0)) for metric in test.after)
    rows["95 % interval"] = [
        f"{low:.3f} to {high:.3f}" if (low, high) != (0, 0) else "" for low, high in intervals
    ]
    titles = [metric.replace("_", " ") for metric in test.after]
    if len(titles) > MOST_COLUMNS:
        table = plain_table("test", *rows)
        for title, *cells in zip(titles, *rows.values(), strict=True):
            table.add_row(title, *cells)
        return table
    table = plain_table("test", *titles)
    for name, cells in rows.items():
        style = {"after": "bold", "95 % interval": "dim"}.get(name)
        table.add_row(name, *cells, style=style)
    return table


def print_plan(console: Console, plan: Plan) -> None:
    """Prints the plan: memory by part, peak memory by stage, and time."""
    rows, tokens = plan.worst_batch
    share = 100 * plan.trainable_parameters / plan.total_parameters
    layout = "packed, a shared beginning computed once" if plan.layout == "shared" else plan.layout
    console.print(
        f"  trains {plan.trainable_parameters:,} of {plan.total_parameters:,} parameters "
        f"({share:.2f} %) in {plural(plan.num_steps, 'step')}, "
        f"{plural(plan.tokens_per_epoch, 'token')} an epoch\n"
        f"  batches are {layout}; the largest has {plural(rows, 'example')}, "
        f"{plural(tokens, 'token')}",
        highlight=False,
    )
    for title, sizes in (("training holds", plan.parts_mb), ("peak while", plan.peaks_mb)):
        table = plain_table(title, "MB")
        for name, size in sizes.items():
            if size:
                table.add_row(name.replace("_", " "), f"{size:,.0f}")
        if title == "training holds":
            table.add_row("together", f"{sum(sizes.values()):,.0f}", style="bold")
        console.print(table)
    if plan.seconds:
        times = ", ".join(f"{name} {duration(seconds)}" for name, seconds in plan.seconds.items())
        console.print(
            f"  time: {times}, without loading and writing answers; measured now, so other "
            "work on the machine makes it longer",
            highlight=False,
            soft_wrap=True,
        )
    console.print(f"  the run needs {plan.peak_mb:,.0f} MB", style="bold", highlight=False)
    for note in plan.notes:
        print_note(console, note)


def print_rewind(console: Console, report: RewindReport) -> None:
    """Prints the report of a rewind: scores by scale, the chosen scale and the reason for it, and
    test scores at scale 1 and at the chosen scale.
    """
    kept = report.retention_metric
    names = [f"validation {report.metric.title}", *([f"retention {kept.title}"] if kept else [])]
    table = plain_table("scale", *names)
    for point in report.scales:
        style = "bold" if point.scale == report.chosen else None
        retained = [] if point.retention is None else [f"{point.retention:.4f}"]
        table.add_row(f"{point.scale:g}", f"{point.validation:.4f}", *retained, style=style)
    if report.base.retention is not None:
        table.add_row("base", "", f"{report.base.retention:.4f}", style="dim")
    console.print(table)
    console.print(f"  chosen: {report.chosen:g}, {report.why}", highlight=False)
    trained, chosen = report.test.trained.metrics, report.test.chosen.metrics
    table = plain_table("test", *(name.replace("_", " ") for name in trained))
    for row, scores in (("scale 1", trained), ("chosen", chosen)):
        table.add_row(row, *(f"{value:.4f}" for value in scores.values()))
    console.print(table)
    for note in report.notes:
        print_note(console, note)
    if not report.written:
        console.print(
            "  nothing to rewind: the adapter is best as it was trained, so only the curve was "
            "written; another try needs another `--output`",
            highlight=False,
        )


def plain_table(first: str, *others: str) -> Table:
    """A table without borders: a left-aligned column for words, then right-aligned columns for
    numbers.
    """
    table = Table(box=None, padding=(0, 1), header_style="dim")
    table.add_column(first)
    for name in others:
        table.add_column(name, justify="right")
    return table


def _count(value: int) -> str:
    return f"{value:,}" if value else "[dim]0[/]"


def print_example(console: Console, pieces: Sequence[Piece]) -> None:
    """Prints an example. Supervised parts are green in a terminal, and in ⟦brackets⟧ elsewhere."""
    for piece in pieces:
        text, style = piece.text, "bold green" if piece.supervised else "dim"
        if piece.supervised and not console.is_terminal:
            text = f"⟦{text}⟧"
        console.print(text, style=style, end="", highlight=False, markup=False, soft_wrap=True)
    console.print("\n  [bold green]in green[/] or ⟦marked⟧: what is supervised", highlight=False)


def print_merge(console: Console, report: MergeReport, folder: str) -> None:
    """Prints logit differences between adapter and merged model, and the scores of both."""
    table = plain_table(
        "merged against the adapter", "positions", "max |Δ logit|", "KL (nats)", "same first choice"
    )
    for name, distance in (("probes", report.probes), ("validation", report.validation)):
        if distance is not None:
            table.add_row(
                name, f"{distance.positions:,}", f"{distance.max_abs_dlogit:.1e}",
                f"{distance.kl:.1e}", f"{distance.top1_agreement:.2%}",
            )  # fmt: skip
    console.print(table)
    if report.score.adapter:
        names = (name.replace("_", " ") for name in report.score.adapter)
        table = plain_table("validation", *names)
        for name, scores in (("adapter", report.score.adapter), ("merged", report.score.merged)):
            table.add_row(name, *(f"{value:.4f}" for value in scores.values()))
        console.print(table)
    else:
        console.print(f"  not scored: {escape(report.validation_absent)}", highlight=False)
    console.print(
        f"  in {duration(report.seconds)}, peak memory {report.peak_memory_mb:,.0f} MB\n"
        f"  model  {escape(folder)}",
        highlight=False,
        soft_wrap=True,
    )
    if report.into == "trained":
        strength = "" if report.scale == 1 else f" at strength {report.scale:g}"
        result = f"it answers as the adapter does{strength}: logits agree "
        result += f"within {report.tolerance:.0e} of their scale"
        console.print(f"\n  {result}", style="green", highlight=False)
    else:
        console.print(
            "\n  merged into other weights than those in training; the table shows the differences",
            style="yellow",
        )
