"""Fits a run's frozen probe on as many rows as a tenth of the run's multiplications allows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from peftkit.data.encoded import Encoded, Examples
from peftkit.evaluation.features import Floats, FrozenBase, read_features
from peftkit.evaluation.frozen_probe import ITERATIONS, FrozenProbe, Part, fit_probe, targets_of
from peftkit.recipe import Recipe
from peftkit.wording import plural

MOST_ROWS = 5000
"""Largest number of training rows to fit the probe on."""
SHARE = 0.1
"""Largest share of the run's multiplications that the probe may take."""
FREE = 1e11
"""Number of multiplications that the probe may take in any run. They take about a second on two CPU
cores; the shortest run takes ten seconds."""
LEAST_PER_LABEL = 5
"""Minimum average number of training rows per label to fit the probe on. A probe fitted on fewer
rows says little about the base. If the training split has fewer rows, all of them are used."""


@dataclass(frozen=True)
class ProbeOfRun:
    """The frozen probe of a run, or the reason why there is none."""

    left_out: str = ""
    """Why there is no probe; empty if there is one."""
    fitted: FrozenProbe | None = None
    rows: int = 0
    """Number of training rows that the probe is fitted on."""
    num_train: int = 0
    """Number of training rows of the run."""


def probe_of_run(
    base: FrozenBase,
    encoded: Encoded,
    recipe: Recipe,
    test: Floats | None,
    planned: float,
    num_parameters: int,
) -> ProbeOfRun:
    """Fits the probe on rows drawn with the recipe's seed, stratified by label. If no probe can be
    fitted, the result's `left_out` says why.

    Args:
        test: features of the test split, if scoring collected them.
        planned: number of tokens in all forward passes of the run, from
            `stages.plan.forward_tokens`.
        num_parameters: number of the base's parameters without embeddings.
    """
    num_train = len(encoded.train)
    work = _work(base, encoded, test is not None, num_parameters)
    planned_work = planned * num_parameters
    share = work.share_within(max(FREE, SHARE * planned_work))
    share = min(share, MOST_ROWS / num_train)
    least = min(num_train, LEAST_PER_LABEL * len(encoded.head.labels))
    if int(share * num_train) < least:
        needed = work.of(least / num_train) / planned_work
        return ProbeOfRun(
            f"on {plural(least, 'row')} it would take {needed:.1%} of the run's work; "
            f"{SHARE:.0%} is allowed",
            num_train=num_train,
        )
    parts = []
    for split in (encoded.train, encoded.validation):
        chosen = split.chosen(draw(split, max(1, int(share * len(split))), recipe.seed))
        parts.append(Part(read_features(base, chosen), chosen))
    features = read_features(base, encoded.test) if test is None else test
    parts.append(Part(features, encoded.test))
    if not all(np.isfinite(part.features).all() for part in parts):
        return ProbeOfRun("the base gives NaN or infinity for some rows", num_train=num_train)
    fitted = fit_probe(parts, recipe.task, encoded.head, recipe.metric)
    return ProbeOfRun("", fitted, len(parts[0].examples), num_train)


@dataclass(frozen=True)
class _Work:
    """The probe's work in multiplications. It is computed, not measured, so that a recipe always
    draws the same rows.
    """

    by_rows: float
    """Number of multiplications for all training and validation rows."""
    fixed: float
    """Number of multiplications for the features of the test rows; 0 if these are known already."""

    def of(self, share: float) -> float:
        """The number of multiplications for a share of the training and validation rows."""
        return self.fixed + share * self.by_rows

    def share_within(self, allowed: float) -> float:
        """The largest share of the training and validation rows that the allowed work permits."""
        return max(0.0, min(1.0, (allowed - self.fixed) / self.by_rows))


def _work(base: FrozenBase, encoded: Encoded, test_is_read: bool, num_parameters: int) -> _Work:
    """Computes the probe's work in multiplications.

    tokens * num_parameters + 2 * iterations * rows * features * labels
    """
    train, labels = encoded.train, len(encoded.head.labels)
    tokens = train.num_tokens + encoded.validation.num_tokens
    layers = base.linear_layers()
    width = layers[-1][1].in_features if layers else labels
    return _Work(
        by_rows=tokens * num_parameters + 2.0 * ITERATIONS * len(train) * width * labels,
        fixed=0.0 if test_is_read else float(encoded.test.num_tokens * num_parameters),
    )


def draw(examples: Examples, count: int, seed: int) -> Sequence[int]:
    """Draws at most `count` examples, stratified by label, with at least one example of each label
    where possible. Returns sorted indices.
    """
    targets = targets_of(examples)
    if count >= len(targets):
        return range(len(targets))
    random = np.random.default_rng([seed, len(targets)])
    chosen: list[int] = []
    for label in np.unique(targets):
        of_label = np.flatnonzero(targets == label)
        some = max(1, int(count * len(of_label) / len(targets)))
        chosen += random.permutation(of_label)[:some].tolist()
    return sorted(chosen[:count])
