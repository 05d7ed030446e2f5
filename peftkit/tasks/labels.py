"""Labels as files hold them: which look alike, which are numbers, how many rows each has."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from peftkit.wording import shortened

FEW_VALUES = 10
"""So many different numbers with fractions may still be classes: ratings in halves."""
FEW_WHOLE = 30
FEW_ROWS = 5
"""Rows of a label in a split from which on its score says something."""
ROWS_PER_LABEL = 4
MAJORITY = 0.9
RATIO = 50
"""Share of the most frequent label, and its rows over those of the rarest, that make imbalance
extreme."""
MARKS = " \t.,;:!?…。，、；：！？\"'“”‘’«»`"
SHOWN = 3
Counts = Mapping[str, Mapping[str, int]]
"""Split -> label -> rows."""


def folded(label: str, number: Callable[[str], float | None]) -> str:
    """The label without what a reader may not see or mean: case, the width and the form of its
    characters, invisible ones, marks at its end; a number as the shortest way to write it.

    Args:
        number: what a text is as a number.
    """
    plain = unicodedata.normalize("NFKC", label)
    plain = "".join(c for c in plain if unicodedata.category(c) not in ("Cf", "Cc"))
    plain = " ".join(plain.casefold().split())
    plain = unicodedata.normalize("NFC", plain)
    plain = plain.rstrip(MARKS).lstrip("\"'“‘«`") or plain
    value = number(plain)
    return plain if value is None else f"{value:.12g}"


def visible(label: str) -> str:
    """The label with its invisible and combining characters written out, cut to 40 characters."""
    hidden = ("Cf", "Cc", "Mn", "Zs")
    shown = "".join(
        f"\\u{ord(c):04x}" if unicodedata.category(c) in hidden and c != " " else c for c in label
    )
    return shortened(shown, 40)


def alike(counts: Mapping[str, int], number: Callable[[str], float | None]) -> list[list[str]]:
    """Groups of labels that `folded` makes one, the largest first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        groups[folded(label, number)].append(label)
    found = [group for group in groups.values() if len(group) > 1]
    return sorted(found, key=lambda group: -sum(counts[label] for label in group))


def scores_not_classes(counts: Mapping[str, int], number: Callable[[str], float | None]) -> str:
    """In words, that the labels are numbers that measure something; empty if they may be classes.

    Classes are few, or whole numbers that leave no large gaps, with several rows each.
    """
    values = {label: number(label) for label in counts}
    rows = sum(counts.values())
    known = {label: value for label, value in values.items() if value is not None}
    distinct = len(set(known.values()))
    if sum(counts[label] for label in known) < 0.9 * rows or not known:
        return ""
    if any(value != int(value) for value in known.values()):
        few = distinct <= FEW_VALUES
    else:
        span = max(known.values()) - min(known.values()) + 1
        few = distinct <= FEW_WHOLE or (rows >= ROWS_PER_LABEL * distinct and span < 2 * distinct)
    if few and (rows > 2 * distinct or distinct < ROWS_PER_LABEL):
        return ""
    low, high = min(known.values()), max(known.values())
    return (
        f"numbers, {distinct:,} different ones in {rows:,} rows, from {low:g} to {high:g}: "
        "scores, not classes"
    )


def label_remarks(
    counts: Counts, weighted: bool, number: Callable[[str], float | None]
) -> Iterator[str]:
    """What a person should know about the labels of the splits.

    Args:
        weighted: whether the loss weighs rare labels up.
    """
    train = counts["train"]
    total = Counter[str]()
    for split in counts.values():
        total.update(split)
    if groups := alike(total, number):
        told = "; ".join(
            " and ".join(f"`{visible(label)}` ({total[label]:,} rows)" for label in group)
            for group in groups[:SHOWN]
        )
        more = f"; and {len(groups) - SHOWN} more groups" if len(groups) > SHOWN else ""
        yield (
            f"labels that look alike are classes of their own: {told}{more}; "
            "`--task.data.fold-labels` makes them one"
        )
    if listed := _lists(total):
        yield (
            f"labels look like lists of labels, such as `{visible(listed)}`: each combination is a "
            "class of its own, as peftkit gives a text one label"
        )
    yield from _imbalance(train, weighted)
    yield from _scarcity(counts)


def _imbalance(train: Mapping[str, int], weighted: bool) -> Iterator[str]:
    rows = sum(train.values())
    most, rarest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    if train[most] < MAJORITY * rows and train[most] < RATIO * train[rarest]:
        return
    hint = "" if weighted else "; `--task.class-weights balanced` weighs rare labels up"
    yield (
        f"the labels are far from balanced: `{visible(most)}` has {train[most]:,} of {rows:,} "
        f"training rows, `{visible(rarest)}` {train[rarest]:,}; look at macro F1 rather than at "
        f"accuracy (`--training.metric macro_f1`){hint}"
    )


def _scarcity(counts: Counts) -> Iterator[str]:
    labels = counts["train"]
    rows = sum(labels.values())
    if rows < ROWS_PER_LABEL * len(labels):
        yield (
            f"{len(labels):,} labels are more than {rows:,} training rows can carry: "
            f"{rows / len(labels):.1f} rows for each"
        )
        return
    parts = []
    for name, split in counts.items():
        few = sorted((split.get(label, 0), label) for label in labels)
        few = [(count, label) for count, label in few if count < FEW_ROWS]
        if few:
            shown = ", ".join(f"`{visible(label)}` {count}" for count, label in few[:SHOWN])
            more = f", and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
            parts.append(f"{name}: {shown}{more}")
    if parts:
        yield (
            f"fewer than {FEW_ROWS} rows of a label teach it, or score it, by chance only "
            f"({'; '.join(parts)})"
        )


def _lists(counts: Mapping[str, int]) -> str:
    """A label that looks like a list, if many do; empty if they do not."""
    parts = {label: _parts(label) for label in counts}
    several = [label for label, found in parts.items() if len(found) > 1]
    brackets = [label for label in counts if _is_json_list(label)]
    if brackets:
        return brackets[0]
    distinct = {part for found in parts.values() for part in found}
    if len(several) < 3 or len(several) < 0.2 * len(counts) or len(distinct) >= len(counts):
        return ""
    return max(several, key=lambda label: counts[label])


def _parts(label: str) -> list[str]:
    return [part.strip() for part in re.split(r"[;|,/]", label) if part.strip()]


def _is_json_list(label: str) -> bool:
    if not re.fullmatch(r"\[.*\]|\{.*\}", label, re.DOTALL):
        return False
    try:
        return isinstance(json.loads(label.replace("'", '"')), list | dict)
    except ValueError:
        return True


def label_text(value: Any) -> Any:
    """A label as pandas would write it to a CSV, so that every format gives the same names."""
    if isinstance(value, float) and math.isnan(value):
        return None  # a missing number
    return str(value) if isinstance(value, int | float) else value


def number_first(label: str) -> tuple[int, float, str]:
    """For sorting: numbers by their size, then names."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)
