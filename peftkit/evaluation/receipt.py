"""The receipt: one offline HTML file that tells a person what a run did, made from run.json."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup, escape

from peftkit.evaluation import plots
from peftkit.terminal import duration


def write_receipt(file: Path, run: dict[str, Any]) -> None:
    """Writes receipt.html from the content of run.json."""
    template = environment("peftkit.evaluation").get_template("receipt.html.j2")
    training = run["training"]
    metric = training["metric"]
    before = run["test"]["before"].get(metric)
    text = template.render(
        run=run,
        metric=metric if metric != "loss" else next(iter(run["test"]["after"])),
        about_probe=about_probe(run["test"]["probe"]),
        recipe_json=json.dumps(run["recipe"], indent=2, ensure_ascii=False),
        loss_plot=plots.loss_curve(training["history"], training["validations"]),
        metric_plot=plots.metric_curve(
            training["validations"], metric, training["best_step"], before
        ),
        matrix_width=340 + 20 * max((len(m["labels"]) for m in run["test"]["matrices"]), default=0),
        matrices=[
            (matrix["title"], plots.confusion(matrix["labels"], matrix["counts"]))
            for matrix in run["test"]["matrices"]
        ],
    )
    file.write_text(text, encoding="utf-8")


def about_probe(probe: dict[str, Any] | None) -> str:
    """Why there is no frozen probe, or on which rows it was fitted where these are not all."""
    if probe is None:
        return ""
    if probe["left_out"]:
        return f"the frozen probe is left out: {probe['left_out']}"
    rows, of = probe["rows"], probe["training_rows"]
    return "" if rows == of else f"the frozen probe was fitted on {rows:,} of {of:,} training rows"


def environment(package: str) -> jinja2.Environment:
    """Templates of a package's folder `templates`; all may include the look, theme.css."""
    loaders = [
        jinja2.PackageLoader(name) for name in dict.fromkeys((package, "peftkit.evaluation"))
    ]
    made = jinja2.Environment(
        loader=jinja2.ChoiceLoader(loaders), autoescape=True, undefined=jinja2.StrictUndefined
    )
    made.filters |= {
        "number": _number, "duration": duration, "megabytes": megabytes, "code": code,
        "sentence": sentence,
    }  # fmt: skip
    return made


def code(text: str) -> Markup:
    """What stands between backticks as code, all of it escaped."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))


def sentence(text: str) -> str:
    """With a capital letter."""
    return text[:1].upper() + text[1:]


def _number(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if abs(value) < 100 else f"{value:,.0f}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def megabytes(size: float) -> str:
    """`1.4 MB`, `3.1 kB`."""
    return f"{size / 1e6:.1f} MB" if size >= 1e5 else f"{size / 1e3:.1f} kB"
