"""Summarizes the verdicts of a comparison in sentences."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.experiments.comparing import trained_out
from peftkit.experiments.comparing.comparison import Comparison, Row
from peftkit.wording import plural


def summary(comparison: Comparison) -> list[str]:
    """Sentences on the verdicts, on the cheapest method that full fine-tuning does not beat, on
    methods that were still improving, and on methods that are worse than the frozen probe.
    """
    full = comparison.baseline
    methods = comparison.methods
    if full is None or full.score is None:
        reason = f" ({full.failed})" if full and full.failed else ""
        sentences = [
            f"Full fine-tuning has no score{reason}, so no method could be compared with it."
        ]
    elif not methods:
        sentences = ["No method was compared with full fine-tuning."]
    elif not comparison.learned:
        sentences = [
            "No method is better than the baselines without training: nothing was learned in this "
            "budget, so verdicts mean nothing."
        ]
    elif full.name not in comparison.learned:
        others = [_ticked(row) for row in methods if row.name in comparison.learned]
        sentences = [
            "Full fine-tuning learned nothing in this budget: it is no better than "
            f"baselines without training, so verdicts on it mean little. {_listed(others)} learned."
        ]
    else:
        sentences = [_verdicts(methods, within(comparison)), *_cheapest(methods, full)]
    return sentences + _not_trained_out(comparison) + _below_probe(comparison)


def within(comparison: Comparison) -> str:
    """The margin in words, such as `1 point` for a score or `0.05` for a loss."""
    scores = [abs(row.score) for row in comparison.rows if row.score is not None]
    if not comparison.metric.higher_is_better:
        return f"{comparison.margin:g} of {comparison.metric.title}"
    points = comparison.margin * (100 if max(scores, default=1) <= 1 else 1)
    return f"{points:.3g} point{'' if round(points, 6) == 1 else 's'}"


def _verdicts(methods: Sequence[Row], margin: str) -> str:
    """A sentence that counts verdicts, such as `3 of 9 methods are equivalent to full fine-tuning
    within 1 point, 2 are worse.`
    """
    meanings = {
        "better": "better than full fine-tuning",
        "equivalent": f"equivalent to full fine-tuning within {margin}",
        "worse": "worse than full fine-tuning",
        "undecided": "undecided",
    }
    parts: list[str] = []
    for verdict, meaning in meanings.items():
        count = sum(row.verdict == verdict for row in methods)
        if count:
            total = f" of {plural(len(methods), 'method')}" if not parts else ""
            words = meaning if "full fine-tuning" not in "".join(parts) else (
                meaning.replace(" than full fine-tuning", "").replace(" to full fine-tuning", "")
            )  # fmt: skip
            parts.append(f"{count}{total} {'is' if count == 1 else 'are'} {words}")
    failed = sum(row.verdict == "failed" for row in methods)
    if failed:
        parts.append(f"{failed} could not be trained")
    return (", ".join(parts) or f"{plural(len(methods), 'method')} without a verdict") + "."


def _cheapest(methods: Sequence[Row], full: Row) -> list[str]:
    """A sentence on the method with the fewest trainable parameters among all methods that are
    equivalent to full fine-tuning or better.
    """
    kept = [
        (row.trainable_parameters, row)
        for row in methods
        if row.verdict in ("equivalent", "better") and row.trainable_parameters
    ]
    if not kept:
        return []
    parameters, best = min(kept, key=lambda pair: pair[0])
    is_better = any(row.verdict == "better" for _, row in kept)
    words = "equivalent or better" if is_better else "equivalent"
    parts = []
    if full.trainable_parameters:
        share = 100 * parameters / full.trainable_parameters
        parts.append(f"{share:.2g} % of the parameters" if share < 99.5 else "as many parameters")
    if best.seconds_per_epoch and full.seconds_per_epoch:
        parts.append(f"{best.seconds_per_epoch / full.seconds_per_epoch:.2f} of the time")
    memory, full_memory = (row.memory("training") for row in (best, full))
    if memory and full_memory:
        parts.append(f"{memory / full_memory:.2f} of the memory")
    costs = f": {', '.join(parts)}" if parts else ""
    return [f"The cheapest {words} one is {_ticked(best)}{costs}."]


def _not_trained_out(comparison: Comparison) -> list[str]:
    """A sentence on the methods that were still improving at the last step."""
    rows = [row for row in comparison.rows if trained_out.label(row)]
    if not rows:
        return []
    names = [_ticked(row) for row in rows]
    return [trained_out.sentence(names, _listed(names), comparison.budget.num_steps)]


def _below_probe(comparison: Comparison) -> list[str]:
    """A sentence on the methods that are significantly worse than the frozen probe."""
    below = [
        _ticked(row)
        for row in comparison.rows
        if row.difference_to_probe and row.difference_to_probe.verdict == "worse"
    ]
    if not below:
        return []
    verb = "is" if len(below) == 1 else "are"
    return [f"{_listed(below)} {verb} worse than the frozen probe: fine-tuning lost."]


def _listed(names: Sequence[str]) -> str:
    """Joins names as `a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _ticked(row: Row) -> str:
    return f"`{row.name.replace('`', chr(39))}`"
