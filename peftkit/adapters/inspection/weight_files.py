"""Checks weight files by their names and first bytes, in stage 1 of `peftkit verify`.

Uses only the standard library, as `inspecting` does.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from peftkit.adapters.inspection.adapterhub_format import ADAPTER_WEIGHTS, SAME_AS
from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.inspection.headers import read_header
from peftkit.bases.stand_ins import weights_stand_in
from peftkit.errors import AdapterError, quoted
from peftkit.wording import plural

if TYPE_CHECKING:
    from peftkit.adapters.inspection.inspected import Inspected

PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
CONVERT = "convert it, in its folder: python -m peftkit convert {0}"
PLAIN_NAME = re.compile(r"[\w.][\w.-]*", re.ASCII)
"""Matches file names that need no quotes in a shell command."""


def check_pickles(inspected: Inspected) -> None:
    """Records a problem for a pickle whose weights no other file holds; a note for other pickles.

    Other pickles are not read. They may be copies of the weights, or a trainer's optimizer state.
    """
    for file in sorted(inspected.folder.rglob("*")):
        if file.suffix not in PICKLES or not file.is_file():
            continue
        if not _is_needed(inspected, file):
            inspected.findings.note(
                "pickle",
                f"`{file.name}` is {_description(file)}, and is not read",
                "loading a pickle can run any program",
            )
        elif instead := weights_stand_in(file):
            inspected.findings.wrong("weights", f"`{file.name}` {instead.what}", "", instead.advice)
        else:
            inspected.findings.wrong(
                "pickle",
                f"`{file.name}` is a pickle",
                "loading a pickle can run any program",
                CONVERT.format(file.name) if PLAIN_NAME.fullmatch(file.name) else "",
            )


def _is_needed(inspected: Inspected, file: Path) -> bool:
    """Whether a pickle holds weights of the adapter that no safetensors file holds."""
    if inspected.config is None or file.parent != inspected.folder:
        return False
    twins = SAME_AS.get(file.name, ()) if inspected.from_adapterhub else (WEIGHTS,)
    is_weights = bool(twins) if inspected.from_adapterhub else file.stem == Path(WEIGHTS).stem
    return is_weights and not any((inspected.folder / name).is_file() for name in twins)


def _description(file: Path) -> str:
    return "a pickle" if weights_stand_in(file) is None else "no pickle, despite its name"


def check_weights(inspected: Inspected) -> None:
    """Checks the headers of the safetensors files, and that no needed file is missing."""
    files = sorted(inspected.folder.glob("*.safetensors"))
    for file in files:
        if instead := weights_stand_in(file):
            inspected.findings.wrong("weights", f"`{file.name}` {instead.what}", "", instead.advice)
            continue
        try:
            inspected.tensors[file.name] = read_header(file)
        except AdapterError as error:
            inspected.findings.wrong("weights", error.message, "", error.hint)
    needed = ADAPTER_WEIGHTS if inspected.from_adapterhub else (WEIGHTS,)
    if inspected.config is not None and not any(
        (inspected.folder / name).is_file() for name in needed
    ):
        if not (inspected.problems_of("pickle") or inspected.problems_of("weights")):
            inspected.findings.wrong(
                "weights",
                f"no .safetensors file {quoted(needed)}",
                "the tensors are read from there",
                "if it was published as a pickle (.bin), download that and run `peftkit convert`",
            )
    elif not files:
        inspected.findings.wrong("weights", "no .safetensors file", "there is nothing to load")
    elif len(inspected.tensors) == len(files):
        stored = [t for tensors in inspected.tensors.values() for t in tensors.values()]
        inspected.findings.ok(
            "weights",
            f"{plural(len(stored), 'tensor')}, {size_of(sum(t.end - t.begin for t in stored))}, "
            "without gap or overlap",
        )


def size_of(number: int) -> str:
    """Formats a number of bytes: `512 bytes`, `3.1 kB`, `1.4 MB`."""
    if number < 1e3:
        return f"{number} bytes"
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"
