"""Writes docs/matrix.md from what `pytest -m matrix` found.

python -m tests.matrix_report FOLDER SECONDS
"""

from __future__ import annotations

import json
import re
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from tests.matrix import CELLS, FURTHER, FURTHER_CELLS, HEADS, METHODS, PRECISIONS, Cell

TARGET = Path(__file__).parent.parent / "docs" / "matrix.md"
QUANTIZED = ("int8", "nf4", "nf4 bfloat16", "nf4 double", "fp4")


def main(folder: Path, seconds: float) -> None:
    found: dict[Cell, dict[str, Any]] = {}
    for file in folder.glob("*.jsonl"):
        for line in file.read_text(encoding="utf-8").splitlines():
            value = json.loads(line)
            cell = Cell(
                *(value.pop(name) for name in ("method", "head", "architecture", "precision"))
            )
            found[cell] = value
    missing = [str(cell) for cell in (*CELLS, *FURTHER_CELLS) if cell not in found]
    if missing:
        sys.exit(f"{len(missing)} of {len(CELLS)} cells are not green: {missing[:5]}")
    TARGET.write_text(report(found, seconds), encoding="utf-8")
    print(f"wrote {TARGET}")


def report(found: dict[Cell, dict[str, Any]], seconds: float) -> str:
    reasons: dict[str, int] = {}
    green = sum(not value["refused"] for value in found.values())
    parts = [INTRODUCTION.format(
        cells=len(found), green=green, refused=len(found) - green, minutes=seconds / 60
    )]  # fmt: skip
    for head, (_, architectures) in HEADS.items():
        parts.append(f"\n## {head.capitalize()}\n" + table(
            ["method", *architectures],
            [
                [method, *(place(found, method, head, name, reasons) for name in architectures)]
                for method in METHODS
            ],
        ))  # fmt: skip
    parts.append("\n## Further architectures\nClassification, float32.\n" + table(
        ["method", *FURTHER],
        [
            [
                method,
                *(
                    place(found, method, "classification", name, reasons, ("float32",))
                    for name in FURTHER
                ),
            ]
            for method in METHODS
        ],
    ))  # fmt: skip
    parts.append("\n## Merging and generating\n" + MERGING + table(
        ["method", "merges", "merges on int8, nf4, fp4", "generates in a batch as one by one"],
        [behaviour(found, method, reasons) for method in METHODS],
    ))  # fmt: skip
    parts.append("\n## Largest differences\n" + DIFFERENCES + differences(found))
    notes = "\n".join(f"{number}. {reason}" for reason, number in reasons.items())
    parts.append(f"\n## Reasons\nWhat `peftkit check` says, before any weight is loaded; M is the "
                 f"model's class.\n\n{notes}\n")  # fmt: skip
    return "".join(parts)


INTRODUCTION = """\
# The matrix: every method on every precision
Written by `make matrix`; do not edit. {cells} cells on tiny models with random weights: {green} do
everything below, {refused} are refused before weights are loaded, with a reason; none is skipped.
{minutes:.0f} minutes on 2 CPU cores.

A cell is ✓ if the method trains there (the loss falls; every injected tensor gets a gradient and
moves; no frozen one changes), starts at the base where its paper says so, answers a padded batch as
it answers each text alone, is saved, is loaded into a fresh model on another seed with equal
logits, lets a second adapter be switched in and out, generates from prompts of different lengths in
a batch what it generates from each alone, and is merged into the (dequantized) weights with equal
logits, or says why not. ✓ without more stands for all seven precisions: float32, bfloat16, int8,
nf4, nf4 computing in bfloat16, nf4 with double quantization, fp4. `[n]` is the reason of that
number below. Which cells are refused is written down a second time in `tests/matrix.py`.
"""
MERGING = """
The base is dequantized first where it is quantized.
"""
DIFFERENCES = """
Over all cells, of the outputs, relative to the largest of them (or to 1). int8 and bfloat16 round
activations, so that another batch, or the merged model in float32, gives other last digits.
"""


def place(
    found: dict[Cell, dict[str, Any]], method: str, head: str, architecture: str,
    reasons: dict[str, int], precisions: tuple[str, ...] = PRECISIONS,
) -> str:  # fmt: skip
    """One field of a table, for several precisions."""
    refused: dict[str, list[str]] = defaultdict(list)
    for precision in precisions:
        if reason := found[Cell(method, head, architecture, precision)]["refused"]:
            refused[general(reason)].append(precision)
    marks = []
    for reason, without in refused.items():
        number = reasons.setdefault(reason, len(reasons) + 1)
        every = tuple(without) == precisions
        marks.append(f"[{number}]" if every else f"not {short(without)} [{number}]")
    if sum(map(len, refused.values())) == len(precisions):
        return ", ".join(marks)
    return "; ".join(["✓", *marks])


def short(precisions: list[str]) -> str:
    return "quantized" if tuple(precisions) == QUANTIZED else ", ".join(precisions)


def behaviour(found: dict[Cell, dict[str, Any]], method: str, reasons: dict[str, int]) -> list[str]:
    mine = {cell: v for cell, v in found.items() if cell.method == method and not v["refused"]}

    def merges(precisions: tuple[str, ...]) -> str:
        said = {general(v["merges"]) for cell, v in mine.items() if cell.precision in precisions}
        if not said:
            return "-"
        marks = [f"[{reasons.setdefault(r, len(reasons) + 1)}]" for r in sorted(said) if r]
        return ", ".join((["✓"] if "" in said else []) + marks)

    generates = any(value["generates"] for value in mine.values())
    return [method, merges(("float32", "bfloat16")), merges(QUANTIZED), "✓" if generates else "-"]


def differences(found: dict[Cell, dict[str, Any]]) -> str:
    largest: dict[str, dict[str, float]] = defaultdict(dict)
    for cell, value in found.items():
        for check, difference in value["differences"].items():
            here = largest[check]
            here[cell.precision] = max(here.get(cell.precision, 0.0), difference)
    return table(
        ["check", *PRECISIONS],
        [[check, *(f"{of.get(p, 0):.0e}" if of.get(p) else "0" for p in PRECISIONS)]
         for check, of in largest.items()],
    )  # fmt: skip


def general(reason: str) -> str:
    """A reason without the names of this model's class, precision and folder."""
    reason = re.sub(r"\b\w+(For\w+|LMHeadModel)\b", "M", reason)
    reason = re.sub(r"`/\S*/([^/`]+)`", r"`\1`", reason)
    return re.sub(r"\b(int8|nf4|fp4)\b(?! -)", "Q", reason)


def table(header: list[str], rows: list[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "\n" + "\n".join("| " + " | ".join(line) + " |" for line in lines) + "\n"


if __name__ == "__main__":
    main(Path(sys.argv[1]), float(sys.argv[2]))
