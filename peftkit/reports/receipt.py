"""The receipt: one offline HTML page that shows what a run did, made from its record."""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from peftkit.data.ledger import Ledger
from peftkit.evaluation.lead import headline_metric
from peftkit.reports import charts, confusion, plots
from peftkit.reports.run_record import RecordedProbe, RunRecord
from peftkit.reports.strata import strata_of
from peftkit.tasks.score import Matrix, ScoreTable
from peftkit.wording import duration, plural

Row = Sequence[Any]
FOLD = 20
"""Number of rows of a long table that are shown before it is expanded."""


@dataclass(frozen=True)
class Folded:
    """A table of the receipt; a long one shows only some rows until the reader expands it."""

    title: str
    columns: Sequence[str]
    shown: Sequence[Row]
    whole: Sequence[Row]
    """All rows; empty if `shown` has them all."""
    selection: str
    """A sentence that says which rows are shown; empty if all are."""


@dataclass(frozen=True)
class ShownMatrix:
    """What the page shows of a confusion matrix."""

    title: str
    picture: str
    """The matrix as SVG text."""
    least: int
    """Smallest width of the picture, in pixels."""
    most: int
    """Largest width of the picture, in pixels."""
    pairs: Sequence[confusion.Pair]
    """The pairs of labels most often confused; empty if the picture names the labels."""
    columns: Sequence[str]
    rows: Sequence[Row]
    """The matrix as table rows, for screen readers; empty if the picture does not name the
    labels."""
    num_labels: int


def write_receipt(file: Path, run: RunRecord) -> None:
    """Writes receipt.html from the record of a run."""
    template = environment("peftkit.reports").get_template("receipt.html.j2")
    training, test = run.training, run.test
    metric = headline_metric(training.metric, test.after)
    of_samples = metric in test.of_samples
    text = template.render(
        run=run,
        metric=metric,
        rows=len(test.samples) if of_samples else run.ledger.splits["test"].rows,
        about_probe=about_probe(test.probe),
        asked=_asked(run),
        recipe_json=json.dumps(json.loads(run.recipe.text), indent=2, ensure_ascii=False),
        loss_plot=plots.loss_curve(training.history, training.validations),
        metric_plot=plots.metric_curve(
            training.validations,
            training.metric,
            training.best_step,
            test.before.get(training.metric),
        ),
        fold=FOLD,
        tables=[folded(table) for table in test.tables],
        matrices=[_matrix(matrix) for matrix in test.matrices],
        charts=[(chart, charts.picture(chart)) for chart in test.charts],
        labels=_labels(run.ledger),
    )
    file.write_text(text, encoding="utf-8")


def _asked(run: RunRecord) -> dict[str, str]:
    """Option of `peftkit predict` -> the task's name for its value, of all that an input needs."""
    if run.asked is not None:
        return run.asked
    pair = run.recipe.to_json()["task"].get("data", {}).get("text_pair")  # in older records
    return {"--text": "text", **({"--text-pair": "text_pair"} if pair else {})}


def _labels(ledger: Ledger) -> Folded | None:
    """A table of the number of rows, or of entities, per label and split, the rarest label last;
    None without labels.
    """
    counts = {name: split.strata for name, split in ledger.splits.items()}
    names = strata_of(counts.values())
    if not names:
        return None
    rows = [(name, *(split.get(name, 0) for split in counts.values())) for name in names]
    columns = (ledger.strata_title, *counts)
    title = (
        f"{ledger.counted.capitalize()} of each {'label' if ledger.counted == 'rows' else 'type'}"
    )
    if len(rows) <= FOLD:
        return Folded(title, columns, rows, (), "")
    half = FOLD // 2
    selection = f"The {half} most frequent and the {half} rarest of {len(rows)}."
    return Folded(title, columns, [*rows[:half], *rows[-half:]], rows, selection)


def folded(table: ScoreTable) -> Folded:
    """Prepares a table of scores for the page. A long table shows the rows with the lowest F1,
    those of classes without test rows last, or its first rows if it has no F1.
    """
    title, columns, rows = table.title, table.columns, table.rows
    if len(rows) <= FOLD:
        return Folded(title, columns, rows, (), table.note)
    if "f1" in columns:
        f1 = columns.index("f1")
        support = columns.index("support") if "support" in columns else None

        def rank(row: Row) -> tuple[bool, float]:
            return support is not None and row[support] == 0, float(row[f1])

        worst = sorted(rows, key=rank)[:FOLD]
        return Folded(title, columns, worst, rows, f"The {FOLD} of {len(rows)} with the lowest F1.")
    return Folded(title, columns, rows[:FOLD], rows, f"The first {FOLD} of {len(rows)}.")


def _matrix(matrix: Matrix) -> ShownMatrix:
    labels, counts = matrix.labels, matrix.counts
    predicted = matrix.columns or labels
    named = confusion.are_named(predicted)
    pairs = [] if named else confusion.worst_pairs(labels, counts, predicted)
    rows = [(label, *row) for label, row in zip(labels, counts, strict=True)] if named else []
    picture, widths = confusion.picture(labels, counts, predicted), confusion.widths(predicted)
    columns = ("expected", *predicted)
    return ShownMatrix(matrix.title, picture, *widths, pairs, columns, rows, len(labels))


def about_probe(probe: RecordedProbe | None) -> str:
    """A sentence if the frozen probe was left out or fitted on only some rows; empty if not."""
    if probe is None:
        return ""
    if probe.left_out:
        return f"the frozen probe is left out: {probe.left_out}"
    if probe.rows == probe.training_rows:
        return ""
    rows = plural(probe.training_rows, "training row")
    return f"the frozen probe was fitted on {probe.rows:,} of {rows}"


@functools.cache
def environment(package: str) -> jinja2.Environment:
    """The jinja2 environment of a package's templates, which can include the shared theme.css."""
    loaders = [jinja2.PackageLoader(name) for name in dict.fromkeys((package, "peftkit.reports"))]
    templates = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    templates.filters |= {
        "number": _number, "duration": duration, "megabytes": megabytes, "code": code,
        "sentence": sentence, "plural": plural, "breakable": breakable, "pictured": pictured,
    }  # fmt: skip
    return templates


def code(text: str) -> Markup:
    """Escapes a text for HTML; text between backticks becomes code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def breakable(name: str) -> Markup:
    """Escapes a name for HTML and allows line breaks after `_`, `.`, `/` and `-`."""
    return Markup("<wbr>").join(re.findall(r"[^_./-]*[_./-]*", name))


def pictured(picture: str, label: str) -> Markup:
    """Adds a label to an SVG picture; screen readers read it instead of the picture's texts."""
    return Markup(picture.replace("<svg", f'<svg role="img" aria-label="{escape(label)}"', 1))


def sentence(text: str) -> str:
    """Capitalizes the first letter of a text."""
    return text[:1].upper() + text[1:]


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def megabytes(size: float) -> str:
    """Formats a number of bytes: `1.4 MB`, `3.1 kB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
