"""Makes the pictures of the site in docs/pictures/: two drawings, and screenshots of pages.

    python docs/pictures.py                                  # line.svg, folder.svg
    python docs/pictures.py --receipt runs/x/receipt.html --compare runs/compare/compare.html

Boxes are filled, with light text, so that they read on a dark and on a light page.
"""

from __future__ import annotations

import argparse
import html
import subprocess
from pathlib import Path

TARGET = Path(__file__).parent / "pictures"
CHROMIUM = "/usr/bin/chromium"
SANS = "system-ui, -apple-system, 'Segoe UI', Roboto, 'Noto Sans', sans-serif"
MONO = "ui-monospace, SFMono-Regular, Menlo, Consolas, monospace"
TEXT = "#ffffff"
QUIET = "#c9d4de"
ARROW = "#8a929c"
CARD = "#27323d"
WIDTH = 760

LINE = (
    (
        "#1f5f86",
        "before weights are loaded: check and plan stop here",
        (
            ("recipe",),
            ("splits", "and ledger"),
            ("base opened,", "no weights"),
            ("examples", "encoded"),
        ),
    ),
    (
        "#2b6b3f",
        "with weights",
        (("weights",), ("score", "before"), ("parameters", "injected"), ("train",)),
    ),
    (
        "#6b3f7c",
        "what is left",
        (("score", "after"), ("adapter", "on disk"), ("loaded again,", "compared"), ("receipt",)),
    ),
)
"""Colour, title and steps of each row."""

FOLDER = (
    (0, "runs/tickets/", ""),
    (1, "adapter/", "what you publish"),
    (2, "adapter_model.safetensors", "trained tensors; plain PEFT loads them"),
    (2, "adapter_config.json", "PEFT's settings, and the base's name"),
    (2, "peftkit.json", "recipe, digests, base, probes"),
    (2, "README.md", "model card, with lines that load it"),
    (1, "receipt.html", "one offline page: scores, curves, costs"),
    (1, "run.json", "the same as data"),
    (1, "by_example.json", "what each test row gave to the scores"),
    (1, "recipe.json", "peftkit run repeats it"),
)
"""Depth, name and meaning of each file."""


def main() -> None:
    """Makes the drawings, and screenshots of the pages that are given."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--receipt", type=Path, help="receipt.html of a run")
    parser.add_argument("--compare", type=Path, help="compare.html of a comparison")
    options = parser.parse_args()
    TARGET.mkdir(exist_ok=True)
    (TARGET / "line.svg").write_text(line())
    (TARGET / "folder.svg").write_text(folder())
    if options.receipt is not None:
        screenshot(options.receipt, TARGET / "receipt.png", 1000, 820)
    if options.compare is not None:
        screenshot(options.compare, TARGET / "compare.png", 1000, 1316)


def line() -> str:
    """The line from recipe to receipt, four steps a row, as SVG."""
    wide, high, gap, title = 166, 66, 24, 36
    parts: list[str] = []
    for row, (colour, name, steps) in enumerate(LINE):
        top = row * (high + title + 22)
        beside_arrow = 12 + wide / 2 + 16 if row else 12
        parts.append(text(beside_arrow, top + 22, name, 17, ARROW))
        for column, words in enumerate(steps):
            left, y = 12 + column * (wide + gap), top + title
            parts.append(box(left, y, wide, high, colour))
            first = y + high / 2 + 6 - 11 * (len(words) - 1)
            for number, word in enumerate(words):
                middle = left + wide / 2
                parts.append(text(middle, first + 22 * number, word, 19, TEXT, "middle"))
            if column:
                parts.append(arrow(left - gap + 2, y + high / 2, left - 3, y + high / 2))
        if row:
            start, end = WIDTH - 12 - wide / 2, 12 + wide / 2
            parts.append(turn(start, top - 22, end, top + title - 3))
    return svg(
        "".join(parts), 3 * (high + title + 22) - 12, "The line of a run, from recipe to receipt"
    )


def folder() -> str:
    """The folder of a run as SVG."""
    step, top = 32, 40
    high = top + step * len(FOLDER)
    parts = [box(0, 0, WIDTH, high, CARD)]
    below: dict[int, float] = {}  # depth -> where the line to what is in that folder begins
    for number, (depth, name, meaning) in enumerate(FOLDER):
        y = top + step * number
        left = 24 + 26 * depth
        if depth:
            parts.append(elbow(left - 18, below[depth - 1], left - 5, y - 6))
        below[depth] = y + 8
        parts.append(text(left, y, name, 17, TEXT, family=MONO))
        parts.append(text(370, y, meaning, 17, QUIET))
    return svg("".join(parts), high, "The folder of a run, with the adapter inside")


def screenshot(page: Path, target: Path, width: int, height: int) -> None:
    """A picture of the top of an HTML page."""
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
        f"--screenshot={target.resolve()}", f"--window-size={width},{height}",
        page.resolve().as_uri(),
    ]  # fmt: skip
    subprocess.run(command, check=True, capture_output=True)


def svg(content: str, height: float, title: str) -> str:
    """A whole SVG file."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:g}" role="img" '
        f'aria-label="{html.escape(title)}">\n<title>{html.escape(title)}</title>\n{content}</svg>\n'
    )


def box(x: float, y: float, width: float, height: float, colour: str) -> str:
    """A filled box with round corners."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{width:g}" height="{height:g}" rx="8" '
        f'fill="{colour}"/>\n'
    )


def text(
    x: float,
    y: float,
    words: str,
    size: int,
    colour: str,
    anchor: str = "start",
    family: str = SANS,
) -> str:
    """A line of text whose base line is at `y`."""
    return (
        f'<text x="{x:g}" y="{y:g}" font-family="{html.escape(family)}" font-size="{size}" '
        f'fill="{colour}" text-anchor="{anchor}">{html.escape(words)}</text>\n'
    )


def arrow(x1: float, y1: float, x2: float, y2: float) -> str:
    """A straight arrow to the right."""
    return path(
        [f"M{x1:g} {y1:g}H{x2:g}", f"M{x2 - 6:g} {y2 - 5:g}L{x2:g} {y2:g}L{x2 - 6:g} {y2 + 5:g}"]
    )


def turn(x1: float, y1: float, x2: float, y2: float) -> str:
    """An arrow from below the end of a row to above the beginning of the next."""
    middle = y1 + 12
    head = f"M{x2 - 5:g} {y2 - 6:g}L{x2:g} {y2:g}L{x2 + 5:g} {y2 - 6:g}"
    return path([f"M{x1:g} {y1:g}V{middle:g}H{x2:g}V{y2:g}", head])


def elbow(x: float, y1: float, x2: float, y2: float) -> str:
    """The line from a folder to a file in it."""
    return path([f"M{x:g} {y1:g}V{y2:g}H{x2:g}"], 1.5)


def path(lines: list[str], width: float = 2) -> str:
    """Lines without a filling."""
    joined = "".join(lines)
    return f'<path d="{joined}" fill="none" stroke="{ARROW}" stroke-width="{width:g}"/>\n'


if __name__ == "__main__":
    main()
