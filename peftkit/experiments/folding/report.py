"""Writes the page of a cross-validation: one offline HTML file."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

from peftkit.evaluation.lead import headline_metric
from peftkit.experiments.folding.console import PAGE, over_folds
from peftkit.experiments.folding.folder import RECIPE
from peftkit.experiments.folding.record import FoldsRecord
from peftkit.experiments.folding.summary import choice
from peftkit.reports.receipt import environment


def write_report(folder: Path, record: FoldsRecord) -> None:
    """Writes folds.html into the folder of a cross-validation."""
    scores = {score.name: score for score in record.scores}
    name = headline_metric(record.metric, {name: score.mean for name, score in scores.items()})
    template = environment("peftkit.experiments.folding").get_template("folds.html.j2")
    text = template.render(
        record=record,
        folder=folder,
        recipe_file=RECIPE,
        headline=scores.get(name, record.scores[0]),
        names=list(scores),
        choice=choice(record),
        over_folds=over_folds(record),
        rows=sum(fold.rows["test"] for fold in record.folds),
        median_step=round(statistics.median(fold.best_step for fold in record.folds)),
        recipe_json=json.dumps(record.identity.recipe, indent=2, ensure_ascii=False),
    )
    (folder / PAGE).write_text(text, encoding="utf-8")
