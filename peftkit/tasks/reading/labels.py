"""Checks labels: which look alike, which are numbers, and how many rows each label has."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from peftkit.wording import shortened

FEW_NUMBERS = 20
"""Largest number of different numbers that count as classes, such as ratings from 1 to 10, in
halves or in tenths."""
FEW_ROWS = 5
"""A note is written if a label has fewer rows than this in a split, as its score then says
little."""
ROWS_PER_LABEL = 4
MANY_ROWS = 10
"""Numbers with many decimals may be classes if each has this many rows on average."""
MAJORITY = 0.9
RATIO = 50
"""Labels are imbalanced if the most frequent one has at least the share `MAJORITY` of the rows, or
`RATIO` times the rows of the rarest one."""
MARKS = " \t.,;:!?…。，、；：！？\"'“”‘’«»`"
HYPHENS = "\u2010\u2011\u2012\u2013\u2014\u2212\uff0d"
DOUBLES = str.maketrans("аеорсухіјѕ", "aeopcyxijs")  # noqa: RUF001
"""Cyrillic letters -> the Latin ones that look the same."""
SHOWN = 3
Counts = Mapping[str, Mapping[str, int]]
"""Split -> label -> number of rows."""


def folded(label: str, number: Callable[[str], float | None]) -> str:
    """Normalizes a label, so that labels which differ only in writing become equal.

    What may differ: case, width and Unicode form of characters, invisible characters, Cyrillic
    look-alikes in Latin words, hyphens and underscores between words, punctuation at the end, and
    the notation of numbers.

    Args:
        number: returns a text as a number, or None if the text is not a number.
    """
    plain = "".join(c for c in unicodedata.normalize("NFKC", label) if not _is_invisible(c))
    plain = "".join("-" if c in HYPHENS else c for c in plain)
    plain = " ".join(plain.casefold().replace("i\u0307", "i").split())
    plain = unicodedata.normalize("NFC", _without_doubles(plain))
    plain = plain.rstrip(MARKS).lstrip("\"'“‘«`") or plain
    if re.fullmatch(r"[-+]?\d{1,1000}", plain):  # Python converts at most 4,300 digits
        return str(int(plain))
    value = number(plain)
    if value is not None:
        return f"{value:.15g}"
    return re.sub(r"(?<=\w)[-_ ]+(?=\w)", " ", plain)


def is_empty(text: str) -> bool:
    """Whether a text has no visible character."""
    return all(c.isspace() or _is_invisible(c) for c in text)


def _is_invisible(c: str) -> bool:
    if "\ufe00" <= c <= "\ufe0f":  # selects how an emoji is drawn
        return True
    return unicodedata.category(c) in ("Cf", "Cc") and not c.isspace()


def _without_doubles(text: str) -> str:
    """Replaces Cyrillic letters by the Latin letters that look the same, in words that mix both."""
    words = (
        word.translate(DOUBLES) if re.search(r"[a-z]", word) else word for word in text.split(" ")
    )
    return " ".join(words)


def visible(label: str) -> str:
    """The label for a message: cut to 40 characters, with invisible characters escaped. If the
    label is not in Unicode form NFC, combining characters are escaped too.
    """
    hidden = {"Cf", "Cc", "Zs"}
    if unicodedata.normalize("NFC", label) != label:
        hidden.add("Mn")
    shown = "".join(
        f"\\u{ord(c):04x}"
        if c != " " and (unicodedata.category(c) in hidden or _is_invisible(c))
        else c
        for c in label
    )
    return shortened(shown, 40)


def alike(counts: Mapping[str, int], number: Callable[[str], float | None]) -> list[list[str]]:
    """Groups of two or more labels that `folded` makes equal; the group with most rows first."""
    groups: dict[str, list[str]] = defaultdict(list)
    for label in sorted(counts, key=lambda label: (-counts[label], label)):
        groups[folded(label, number)].append(label)
    several = [group for group in groups.values() if len(group) > 1]
    return sorted(several, key=lambda group: -sum(counts[label] for label in group))


def with_rows(group: Sequence[str], counts: Mapping[str, int]) -> str:
    """Names the labels of a group with their numbers of rows: `` `Pos` (50 rows) and `pos` (4 rows)
    ``.
    """
    return " and ".join(f"`{visible(label)}` ({counts[label]:,} rows)" for label in group)


def scores_not_classes(counts: Mapping[str, int], number: Callable[[str], float | None]) -> str:
    """Describes, for a message, labels that are measurements; empty if they may be classes.

    Whole numbers may be classes if there are few, or several rows of each. Numbers with fractions
    may be if each has many rows, as codes have, or if they are few and in round steps.
    """
    known = _numbers(counts, number)
    rows, distinct = sum(counts.values()), len(set(known.values()))
    if not known or sum(counts[label] for label in known) < 0.9 * rows:
        return ""
    low, high = min(known.values()), max(known.values())
    several = rows >= 2 * distinct
    dense = high - low < 2 * distinct
    if all(value == int(value) for value in known.values()):
        classes = distinct <= FEW_NUMBERS or (
            several and (dense or rows >= ROWS_PER_LABEL * distinct)
        )
    else:
        round_ones = all(math.isclose(20 * value, round(20 * value)) for value in known.values())
        if rows >= MANY_ROWS * distinct:
            classes = distinct <= FEW_NUMBERS or not dense  # codes, such as 250.01
        elif distinct <= FEW_NUMBERS:
            classes = distinct < ROWS_PER_LABEL or (round_ones and several)
        else:
            classes = False
    if classes:
        return ""
    return (
        f"numbers, {distinct:,} different ones in {rows:,} rows, from {low:g} to {high:g}: "
        "scores, not classes"
    )


def _numbers(counts: Mapping[str, int], number: Callable[[str], float | None]) -> dict[str, float]:
    """Label -> its value, for labels that are numbers or percentages."""
    read = {label: number(label.rstrip(" %")) for label in counts}
    return {label: value for label, value in read.items() if value is not None}


def label_remarks(
    counts: Counts, weighted: bool, number: Callable[[str], float | None]
) -> Iterator[str]:
    """Yields notes on the labels of the splits.

    Args:
        weighted: whether rare labels weigh more in the loss.
    """
    train = counts["train"]
    total = Counter[str]()
    for split in counts.values():
        total.update(split)
    if groups := alike(total, number):
        shown = "; ".join(with_rows(group, total) for group in groups[:SHOWN])
        more = f"; and {len(groups) - SHOWN} more groups" if len(groups) > SHOWN else ""
        yield (
            f"labels that look alike count as separate classes: {shown}{more}; "
            "`--task.data.fold-labels` merges them"
        )
    known = _numbers(total, number)
    if len(known) > max(FEW_NUMBERS, 0.9 * len(total)):
        yield (
            f"the labels are {len(known):,} numbers from {min(known.values()):g} to "
            f"{max(known.values()):g}, each its own class; if they are measurements, the task "
            "TextRegression learns them as numbers"
        )
    if listed := _lists(total):
        yield (
            f"labels look like lists of labels, such as `{visible(listed)}`: each combination is "
            "its own class; MultiLabelClassification gives a text several labels"
        )
    yield from _imbalance(train, weighted)
    yield from _scarcity(counts)


def _imbalance(train: Mapping[str, int], weighted: bool) -> Iterator[str]:
    rows = sum(train.values())
    most, rarest = max(train, key=train.__getitem__), min(train, key=train.__getitem__)
    if train[most] < MAJORITY * rows and train[most] < RATIO * train[rarest]:
        return
    hint = "" if weighted else "; `--task.class-weights balanced` gives rare labels more weight"
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
            f"{rows:,} training rows are too few for {len(labels):,} labels: "
            f"{rows / len(labels):.1f} rows for each"
        )
        return
    yield from scarce(counts)


def scarce(counts: Counts) -> Iterator[str]:
    """Yields a note if labels have fewer than `FEW_ROWS` rows in a split.

    Args:
        counts: its labels are those of the split `train`.
    """
    labels, parts = counts["train"], []
    for name, split in counts.items():
        few = sorted((split.get(label, 0), label) for label in labels)
        few = [(count, label) for count, label in few if count < FEW_ROWS]
        if few:
            shown = ", ".join(f"`{visible(label)}` {count}" for count, label in few[:SHOWN])
            more = f", and {len(few) - SHOWN} more" if len(few) > SHOWN else ""
            parts.append(f"{name}: {shown}{more}")
    if parts:
        yield (
            f"some labels have fewer than {FEW_ROWS} rows in a split, too few to learn or to score "
            f"them ({'; '.join(parts)})"
        )


def _lists(counts: Mapping[str, int]) -> str:
    """An example of a label that looks like a list, if many labels do; else empty."""
    enough = max(2, 0.2 * len(counts))
    brackets = [label for label in counts if _is_json_list(label)]
    if len(brackets) >= enough:
        return brackets[0]
    parts = {label: _parts(label) for label in counts if not re.fullmatch(r"[\d.,%\s+-]+", label)}
    several = [label for label, of_label in parts.items() if len(of_label) > 1]
    distinct = {part for of_label in parts.values() for part in of_label}
    if len(several) < max(3, enough) or len(distinct) >= len(counts):
        return ""
    return max(several, key=lambda label: counts[label])


def _parts(label: str) -> list[str]:
    return [part.strip() for part in re.split(r"[;|,/]", label) if part.strip()]


def _is_json_list(label: str) -> bool:
    if not re.fullmatch(r"\[.*\]|\{.*\}", label, re.DOTALL):
        return False
    try:
        return isinstance(json.loads(label.replace("'", '"')), list | dict)
    except (ValueError, RecursionError):
        return False


def label_text(value: Any) -> Any:
    """A label as pandas writes it to a CSV file, so that labels are the same in every format."""
    if isinstance(value, float) and math.isnan(value):
        return None  # NaN, a missing number
    return str(value) if isinstance(value, int | float) else value


def number_first(label: str) -> tuple[int, float, str]:
    """A sort key for labels: numbers first, by value, then names."""
    try:
        number = float(label)
    except ValueError:
        number = math.nan
    return (1, 0.0, label) if math.isnan(number) else (0, number, label)
