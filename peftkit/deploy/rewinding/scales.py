"""Reads the scales at which an adapter is scored, and chooses one of them. Loads no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from peftkit.errors import RecipeError
from peftkit.metrics.metric import Metric
from peftkit.reports.rewind_report import Measured

STEP = 0.1
"""Step between the scales of a range such as `0.2..1.0`."""
DEFAULT = "0.2..1.0"
MAX_SCALES = 51
"""Largest number of scales at which an adapter is scored."""


def parse_scales(text: str) -> tuple[float, ...]:
    """Reads a range such as `0.2..1.0`, in steps of 0.1, or a list such as `0.2,0.5`. Returns the
    scales in ascending order; 1 is added if missing.

    Raises:
        RecipeError: the text is neither a range nor a list, or a scale is not from 0 to 1.
    """
    if ".." not in text:
        return checked_scales([_number(part, "--scales") for part in text.split(",")])
    low, high = (_number(part, "--scales") for part in text.split("..", 1))
    if not 0 <= low < high <= 1:
        raise RecipeError(
            f"`--scales {text}` is not a range of two numbers from 0 to 1, the smaller first",
            f"give a range such as `{DEFAULT}`",
        )
    count = int((high - low) / STEP + 1e-9)
    return checked_scales([*(round(low + STEP * n, 10) for n in range(count + 1)), high])


def parse_choice(text: str) -> float | None:
    """The scale given with `--choose`; None if the text is empty.

    Raises:
        RecipeError: the text is not a number from 0 to 1.
    """
    return checked_scales([_number(text, "--choose")], "--choose")[0] if text else None


def checked_scales(scales: Sequence[float], option: str = "--scales") -> tuple[float, ...]:
    """The scales in ascending order, without duplicates; 1 is added if missing.

    Raises:
        RecipeError: there are no scales, there are too many scales, or a scale is not from 0 to 1.
    """
    for scale in scales:
        if not 0 <= scale <= 1:
            raise RecipeError(
                f"`{option}` has {scale:g}, which is not from 0 to 1",
                "1 is the adapter as it was trained, 0 is its base",
            )
    if not 0 < len(scales) <= MAX_SCALES:
        raise RecipeError(f"`{option}` has {len(scales)} scales; 1 to {MAX_SCALES} are possible")
    return tuple(sorted({*map(float, scales), 1.0}))


def _number(text: str, option: str) -> float:
    try:
        return float(text)
    except ValueError:
        raise RecipeError(
            f"`{option}` has `{text.strip()}`, which is not a number",
            f"give a range such as `{DEFAULT}`, or numbers such as `0.2,0.5,1`"
            if option == "--scales"
            else "give a number from 0 to 1",
        ) from None


def choose(
    curve: Sequence[Measured], metric: Metric, kept: Metric | None, tolerance: float = 0.0
) -> tuple[float, str]:
    """Chooses a scale; returns it and the reason as text.

    Chooses the scale with the best retention among those whose validation score is at most
    `tolerance` worse than at scale 1. If retention was not measured, chooses the scale with the
    best validation score. Ties go to scale 1, then to the smaller scale.

    Args:
        curve: scores by ascending scale; scale 1 is last.
        metric: metric of the validation scores.
        kept: metric of retention; None if retention was not measured.
        tolerance: how much the validation score may be worse than at scale 1.
    """

    def validation(point: Measured) -> float:
        return metric.goodness(point.validation)

    def retention(point: Measured) -> float:
        assert kept is not None
        assert point.retention is not None
        return kept.goodness(point.retention)

    trained = curve[-1]
    if trained.retention is None:
        best = max(curve, key=lambda point: (validation(point), -point.scale))
        if validation(best) == validation(trained):
            return trained.scale, "no smaller scale has a better validation score"
        return best.scale, "it has the best validation score"
    least = validation(trained) - tolerance
    good = [point for point in curve if point is trained or validation(point) >= least]
    by = f" by more than {tolerance:g}" if tolerance else ""
    if len(good) == 1:
        return trained.scale, f"at every smaller scale the validation score is worse{by}"
    best = max(good, key=lambda point: (retention(point), -point.scale))
    if retention(best) == retention(trained):
        return trained.scale, f"no smaller scale retains more without a score that is worse{by}"
    among = f"of {len(good)} scales whose validation score is not worse than at scale 1{by}"
    return best.scale, f"{among}, it retains most"


@dataclass(frozen=True)
class ScaleChoice:
    """The scales at which an adapter is scored, and how one of them is chosen."""

    scales: tuple[float, ...]
    """The scales in ascending order; 1 is last."""
    wanted: float | None
    """The scale given by the user; None to choose one on validation data."""
    tolerance: float
    """How much the validation score may be worse than at scale 1."""

    def choose(
        self, curve: Sequence[Measured], metric: Metric, kept: Metric | None
    ) -> tuple[float, str]:
        """The chosen scale and the reason; see the function `choose`."""
        if self.wanted is not None:
            return self.wanted, "it was asked for"
        return choose(curve, metric, kept, self.tolerance)


def scale_choice(scales: Sequence[float], wanted: float | None, tolerance: float) -> ScaleChoice:
    """Checks the scales and makes a `ScaleChoice`; if `scales` is empty, uses `DEFAULT`.

    Raises:
        RecipeError: there are too many scales, or a scale is not from 0 to 1.
    """
    checked = checked_scales(scales or parse_scales(DEFAULT))
    if wanted is not None:
        checked = checked_scales([*checked, wanted])
    return ScaleChoice(checked, wanted, tolerance)
