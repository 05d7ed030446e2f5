"""What a comparison comes to, in sentences made from its verdicts."""

from __future__ import annotations

from collections.abc import Sequence

from peftkit.experiments.comparing import trained_out
from peftkit.experiments.comparing.comparison import Comparison, Row
from peftkit.wording import plural


def summary(comparison: Comparison) -> list[str]:
    """The verdicts in a sentence, the cheapest method that keeps up, and rows under their probe."""
    full = comparison.baseline
    methods = comparison.methods
    if full is None or full.score is None:
        reason = f" ({full.failed})" if full and full.failed else ""
        told = [f"Full fine-tuning has no score{reason}, so no method could be compared with it."]
    elif not methods:
        told = ["No method was compared with full fine-tuning."]
    elif not comparison.learned:
        told = [
            "Nothing is better than what needs no training: in this budget nothing was learned, so "
            "that verdicts say nothing."
        ]
    elif full.name not in comparison.learned:
        others = [_ticked(row) for row in methods if row.name in comparison.learned]
        told = [
            "Full fine-tuning learned nothing in this budget: it is no better than what needs no "
            f"training, so that a verdict against it says little. {_listed(others)} learned."
        ]
    else:
        told = [_verdicts(methods, within(comparison)), *_cheapest(methods, full)]
    return told + _not_trained_out(comparison) + _under_probe(comparison)


def within(comparison: Comparison) -> str:
    """The margin in words: `1 point` of a score, `0.05` of a loss."""
    scores = [abs(row.score) for row in comparison.rows if row.score is not None]
    if not comparison.metric.higher_is_better:
        return f"{comparison.margin:g} of {comparison.metric.title}"
    points = comparison.margin * (100 if max(scores, default=1) <= 1 else 1)
    return f"{points:.3g} point{'' if round(points, 6) == 1 else 's'}"


def _verdicts(methods: Sequence[Row], margin: str) -> str:
    """`3 of 9 methods are equivalent to full fine-tuning within 1 point, 2 are worse.`"""
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
            of = f" of {plural(len(methods), 'method')}" if not parts else ""
            said = meaning if "full fine-tuning" not in "".join(parts) else (
                meaning.replace(" than full fine-tuning", "").replace(" to full fine-tuning", "")
            )  # fmt: skip
            parts.append(f"{count}{of} {'is' if count == 1 else 'are'} {said}")
    failed = sum(row.verdict == "failed" for row in methods)
    if failed:
        parts.append(f"{failed} could not be trained")
    return (", ".join(parts) or f"{plural(len(methods), 'method')} without a verdict") + "."


def _cheapest(methods: Sequence[Row], full: Row) -> list[str]:
    """Of those that are no worse, the one with the fewest parameters, beside full fine-tuning."""
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
    own, whole = (row.memory("training") for row in (best, full))
    if own and whole:
        parts.append(f"{own / whole:.2f} of the memory")
    beside = f": {', '.join(parts)}" if parts else ""
    return [f"The cheapest {words} one is {_ticked(best)}{beside}."]


def _not_trained_out(comparison: Comparison) -> list[str]:
    """Rows that were still getting better at the end."""
    rows = [row for row in comparison.rows if trained_out.told(row)]
    if not rows:
        return []
    names = [_ticked(row) for row in rows]
    return [trained_out.sentence(names, _listed(names), comparison.budget.num_steps)]


def _under_probe(comparison: Comparison) -> list[str]:
    """Rows that a classifier on the frozen base beats, by more than luck."""
    under = [
        _ticked(row)
        for row in comparison.rows
        if row.difference_to_probe and row.difference_to_probe.verdict == "worse"
    ]
    if not under:
        return []
    verb = "is" if len(under) == 1 else "are"
    return [f"{_listed(under)} {verb} worse than the frozen probe: fine-tuning lost."]


def _listed(names: Sequence[str]) -> str:
    """`a, b and c`."""
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def _ticked(row: Row) -> str:
    return f"`{row.name.replace('`', chr(39))}`"
