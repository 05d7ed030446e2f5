"""Writes the report of a comparison: one offline HTML page, and a Markdown table."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from peftkit.experiments.comparing import plots, trained_out
from peftkit.experiments.comparing.comparison import Comparison, Row, Spent
from peftkit.experiments.comparing.summary import summary, within
from peftkit.reports.receipt import FOLD, environment, megabytes
from peftkit.wording import duration, plural

NOTHING = "–"
MARKS = {"better": "▲", "worse": "▼", "equivalent": "=", "undecided": "?", "failed": "✕",
         "baseline": "●"}  # fmt: skip
"""Verdict -> the sign printed before it, so that verdicts do not differ in colour alone."""


@dataclass(frozen=True)
class Column:
    """A column of the report's table, to the right of the verdict."""

    title: str
    cell: Callable[[Row], tuple[str, str]]
    """Row -> (text of the cell, small text below it)."""
    group: str = ""
    """Common heading above neighbouring columns; empty if there is none."""


def write_report(folder: Path, comparison: Comparison) -> None:
    """Writes compare.html and compare.md into the folder."""
    (folder / "compare.html").write_text(page(comparison), encoding="utf-8")
    (folder / "compare.md").write_text(_markdown(comparison), encoding="utf-8")


def page(comparison: Comparison) -> str:
    """Renders the report as HTML."""
    rows, metric = comparison.rows, comparison.metric
    direction = _direction(comparison)
    costs: dict[str, list[float | None]] = {
        "trained parameters": [row.trainable_parameters for row in rows],
        "peak memory of training, MB": [row.memory("training") for row in rows],
        "seconds per epoch": [row.seconds_per_epoch for row in rows],
    }
    pictures = [
        (title, plots.pareto(rows, cost, title, direction, metric, title == "trained parameters"))
        for title, cost in costs.items()
    ]
    templates = environment("peftkit.experiments.comparing")
    templates.filters |= {"score": score}
    return templates.get_template("compare.html.j2").render(
        comparison=comparison, numbered=list(enumerate(rows, 1)), metric=metric.title,
        marks=MARKS, within=within(comparison),
        answer=summary(comparison), columns=columns(comparison),
        interval=interval, difference=difference, facts=facts(comparison),
        share=_share_of_search(comparison.budget),
        pareto=[(cost, picture) for cost, picture in pictures if picture],
        seeds=scores_picture(comparison),
        not_trained_out=trained_out.label, fold=FOLD,
        rates=plots.rate_panels(rows, metric), learning=plots.learning_panels(rows),
    )  # fmt: skip


def scores_picture(comparison: Comparison) -> str:
    """Draws the scores of all rows and seeds, as SVG."""
    return plots.seeds(comparison.rows, _direction(comparison))


def columns(comparison: Comparison) -> list[Column]:
    """The columns after the verdict. A column of memory, forgetting or a further score is left out
    if no row has a value for it.
    """
    rows, full = comparison.rows, comparison.baseline
    result = [
        Column("trained parameters", lambda row: (
            _count(row.trainable_parameters), _percent(row, full))),
        Column("adapter", lambda row: (_size(row), "")),
        Column("rate", lambda row: (_rate(row), "")),
        Column("per epoch", lambda row: (
            _seconds(row.seconds_per_epoch), _times(row, full)), "seconds"),
        Column("to best", lambda row: (_seconds(row.seconds_to_best), ""), "seconds"),
        Column("to 99 % of full", lambda row: (_to_full(row, full), ""), "seconds"),
    ]  # fmt: skip
    for kind in ("training", "evaluation", "merging"):
        if any(row.memory(kind) is not None for row in rows):
            result.append(Column(kind, partial(_memory_cell, kind), "peak memory, MB"))
    if any(row.forgetting is not None for row in rows):
        result.append(Column("forgetting, nats", lambda row: (_signed(row.forgetting), "")))
    for name in dict.fromkeys(name for row in rows for name in row.extra or {}):
        result.append(Column(name.replace("_", " "), partial(_extra_cell, name)))
    return result


def facts(comparison: Comparison) -> list[tuple[str, str, str]]:
    """Facts about the whole comparison, such as the margin: (name, value, small text below it)."""
    budget, splits = comparison.budget, comparison.split_rows
    result = [
        ("each method", _budget(budget), _tokens(budget)),
        ("trials", f"{plural(budget.trials, 'rate')}, {plural(budget.num_seeds, 'seed')}",
         f"rates: {budget.search_steps} of {plural(budget.num_steps, 'step')} each"
         if budget.trials > 1 else "the recipe's rate; no others were tried"),
        ("rows", f"{splits.test:,} test",
         f"{splits.train:,} train, {splits.validation:,} validation"),
        ("margin", f"{comparison.margin:g}",
         "differences within it are equivalent"),
        ("time", duration(comparison.seconds), f"for all trials; {comparison.device}"),
    ]  # fmt: skip
    if comparison.before is not None:
        result.insert(3, ("before training", score(comparison.before), comparison.metric.title))
    return result


def markdown_table(comparison: Comparison) -> str:
    """The table in Markdown, for a README: scores, intervals and costs, one row per method."""
    head = [f"{comparison.metric.title} [95 % interval]", "difference to full", "verdict",
            "trained parameters", "adapter", "s / epoch", "training memory, MB"]  # fmt: skip
    lines = [
        f"| method | {' | '.join(map(_plain, head))} |",
        "|---|---|---|---|---:|---:|---:|---:|",
    ]
    for row in comparison.rows:
        gap = row.difference_to_full
        cells = [
            row.name,
            score(row.score) + _bracketed(interval(row.interval)),
            _signed(gap.value) + _bracketed(interval(gap.interval, "+")) if gap else NOTHING,
            trained_out.verdict(row) or NOTHING,
            _count(row.trainable_parameters),
            _size(row),
            _seconds(row.seconds_per_epoch),
            _count(row.memory("training")),
        ]  # fmt: skip
        lines.append(f"| {' | '.join(map(_plain, cells))} |")
    return "\n".join(lines) + "\n"


def _markdown(comparison: Comparison) -> str:
    budget = comparison.budget
    parts = [f"{comparison.task} on {comparison.base.name}", f"data {comparison.data}",
             f"{_budget(budget)} each", _searched(budget),
             plural(budget.num_seeds, "seed"),
             plural(comparison.split_rows.test, "test row"),
             f"equivalent: within {within(comparison)}", comparison.device]  # fmt: skip
    sentences = "\n".join(summary(comparison))
    return f"{sentences}\n\n{markdown_table(comparison)}\n{_plain('; '.join(parts))}\n"


def score(value: float | None) -> str:
    """Formats a score, such as `0.818` or `31.24`."""
    if value is None:
        return NOTHING
    return f"{value:.3f}" if abs(value) < 10 else f"{value:,.2f}"


def interval(limits: Sequence[float] | None, sign: str = "") -> str:
    """Formats an interval, such as `0.790 to 0.840`, or `-0.010 to +0.020` if `sign` is `+`."""
    return " to ".join(map(_signed if sign else score, limits)) if limits else ""


def difference(row: Row) -> tuple[str, str]:
    """Formats a method's difference to full fine-tuning: (difference, interval)."""
    gap = row.difference_to_full
    return (_signed(gap.value), interval(gap.interval, "+")) if gap else (NOTHING, "")


def _bracketed(text: str) -> str:
    return f" [{text}]" if text else ""


def _signed(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:+.3f}" if abs(value) < 10 else f"{value:+,.2f}"


def _direction(comparison: Comparison) -> str:
    return f"{comparison.metric.title}, {comparison.metric.direction} is better"


def _count(value: float | None) -> str:
    return NOTHING if value is None else f"{value:,.0f}"


def _seconds(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _to_full(row: Row, full: Row | None) -> str:
    """Formats the seconds until a method's score was within 1 % of full fine-tuning's score.
    `never` if it never was; `–` if full fine-tuning has no score.
    """
    if row.seconds_to_99_of_full is None and row.role == "method" and not row.failed:
        return "never" if full is not None and full.score is not None else NOTHING
    return _seconds(row.seconds_to_99_of_full)


def _rate(row: Row) -> str:
    if row.learning_rate is not None:
        return re.sub(r"e-0?", "e-", f"{row.learning_rate:.1e}").replace(".0e", "e")
    return NOTHING if row.regularization is None else f"C = {row.regularization:g}"


def _size(row: Row) -> str:
    return NOTHING if row.adapter_bytes is None else megabytes(row.adapter_bytes)


def _memory_cell(kind: str, row: Row) -> tuple[str, str]:
    return _count(row.memory(kind)), ""


def _extra_cell(name: str, row: Row) -> tuple[str, str]:
    return score(row.extra.get(name)), ""


def _ratio(row: Row, value: float | None, full: float | None) -> float | None:
    """A row's value divided by the value in the baseline's row; None for the baseline itself."""
    return None if row.role == "baseline" or value is None or not full else value / full


def _percent(row: Row, full: Row | None) -> str:
    parameters = full.trainable_parameters if full else None
    ratio = _ratio(row, row.trainable_parameters, parameters)
    if ratio is None:
        return ""
    return f"{100 * ratio:.2g} %" if ratio < 0.995 else f"{100 * ratio:.0f} %"


def _times(row: Row, full: Row | None) -> str:
    seconds = full.seconds_per_epoch if full else None
    ratio = _ratio(row, row.seconds_per_epoch, seconds)
    return "" if ratio is None else f"× {ratio:.2f}"  # noqa: RUF001


def _budget(budget: Spent) -> str:
    epochs = f"{plural(budget.num_epochs, 'epoch')}, " if budget.num_epochs else ""
    return f"{epochs}{plural(budget.num_steps, 'step')} of {budget.batch_size}"


def _searched(budget: Spent) -> str:
    """Says how many rates were tried, such as `4 rates tried`."""
    one = budget.trials == 1
    return "each at its recipe's rate" if one else f"{plural(budget.trials, 'rate')} tried"


def _tokens(budget: Spent) -> str:
    return plural(budget.tokens, "token") if budget.tokens else ""


def _share_of_search(budget: Spent) -> str:
    """Says how long trials are, such as `20 of 79 steps, about a quarter of the budget`."""
    share = budget.search_steps / budget.num_steps
    portion = "about a quarter" if 0.2 <= share <= 0.3 else f"{100 * share:.0f} %"
    return f"{budget.search_steps:,} of {plural(budget.num_steps, 'step')}, {portion} of the budget"


def _plain(text: str) -> str:
    """Escapes text for Markdown, including cells of Markdown tables."""
    text = re.sub(r"([\\`*\[\]|])", r"\\\1", " ".join(text.split()))
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
