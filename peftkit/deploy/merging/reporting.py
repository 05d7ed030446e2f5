"""The report of a merge: how far the merged model's answers are from the adapter's."""

from __future__ import annotations

import math
from pathlib import Path

from peftkit.adapters.loading import OpenedAdapter
from peftkit.adapters.probes import merged_tolerance
from peftkit.adapters.record import versions
from peftkit.bases.devices import open_accelerator, peak_memory_mb
from peftkit.data.packaged import sha256_of
from peftkit.deploy.merging.certificate import Answers, Questions, compare, worst
from peftkit.errors import AdapterError
from peftkit.reports.merge_report import BothScores, Into, MergeReport


def make_report(
    adapter: OpenedAdapter,
    folder: Path,
    into: Into,
    scale: float,
    questions: Questions,
    answers: tuple[Answers, Answers],
) -> MergeReport:
    """The content of merge_report.json, without the seconds.

    Args:
        folder: of the merged model.
        answers: of the adapter, and of the merged model.

    Raises:
        AdapterError: the merged model is not the trained one, and should be.
    """
    first, second = answers
    distances = compare(first, second)
    largest = worst(distances.values())
    report = MergeReport(
        into=into,
        scale=scale,
        dtype=str(adapter.dtype).removeprefix("torch."),
        max_abs_dlogit=largest.max_abs_dlogit,
        relative=largest.relative,
        kl=largest.kl,
        top1_agreement=largest.top1_agreement,
        tolerance=merged_tolerance(adapter.base.spec),
        probes=distances["probes"],
        validation=distances.get("validation"),
        score=BothScores(first.scores, second.scores),
        validation_absent=questions.reason,
        seconds=0.0,
        peak_memory_mb=peak_memory_mb(open_accelerator(adapter.base.spec).device),
        adapter=adapter.record.weights,
        files={file.name: sha256_of(file) for file in sorted(folder.glob("*.safetensors"))},
        versions=versions(),
    )
    _judge(report)
    return report


def _judge(report: MergeReport) -> None:
    """Raises AdapterError if the merged model is not the trained one, and should be."""
    if math.isnan(report.max_abs_dlogit):
        raise AdapterError("the merged model answers NaN", "`peftkit verify` the adapter")
    if report.into == "trained" and not report.relative <= report.tolerance:
        raise AdapterError(
            f"the merged model answers differently from the adapter: logits are off by up to "
            f"{report.max_abs_dlogit:.2g}, {report.relative:.3g} of their scale (tolerance "
            f"{report.tolerance:g}), the likeliest answer is the same at "
            f"{report.top1_agreement:.1%} of the positions; nothing was written",
            "keep the adapter, which is right as it is",
        )
