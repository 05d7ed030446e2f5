"""Stage 1 of `peftkit verify`: checks files with weights by their names and first bytes.

The standard library only, as in `inspecting`.
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
"""File names that may stand in a command."""


def look_at_pickles(found: Inspected) -> None:
    """Records pickles: as problems if the adapter's weights are only there, else as notes, since
    they are not read (a copy of the safetensors file, a trainer's optimizer state).
    """
    for file in sorted(found.folder.rglob("*")):
        if file.suffix not in PICKLES or not file.is_file():
            continue
        if not _is_needed(found, file):
            found.findings.note(
                "pickle",
                f"`{file.name}` is {_kind(file)}, and is not read",
                "loading a pickle can run any program",
            )
        elif instead := weights_stand_in(file):
            found.findings.wrong("weights", f"`{file.name}` {instead.what}", "", instead.advice)
        else:
            found.findings.wrong(
                "pickle",
                f"`{file.name}` is a pickle",
                "loading a pickle can run any program",
                CONVERT.format(file.name) if PLAIN_NAME.fullmatch(file.name) else "",
            )


def _is_needed(found: Inspected, file: Path) -> bool:
    """Whether a pickle has weights of the adapter that no safetensors file has."""
    if found.config is None or file.parent != found.folder:
        return False
    twins = SAME_AS.get(file.name, ()) if found.from_adapterhub else (WEIGHTS,)
    is_weights = bool(twins) if found.from_adapterhub else file.stem == Path(WEIGHTS).stem
    return is_weights and not any((found.folder / name).is_file() for name in twins)


def _kind(file: Path) -> str:
    return "a pickle" if weights_stand_in(file) is None else "no pickle, whatever its name says"


def look_at_weights(found: Inspected) -> None:
    """Checks the safetensors files: their headers, and that the needed ones exist."""
    files = sorted(found.folder.glob("*.safetensors"))
    for file in files:
        if instead := weights_stand_in(file):
            found.findings.wrong("weights", f"`{file.name}` {instead.what}", "", instead.advice)
            continue
        try:
            found.tensors[file.name] = read_header(file)
        except AdapterError as error:
            found.findings.wrong("weights", error.message, "", error.hint)
    needed = ADAPTER_WEIGHTS if found.from_adapterhub else (WEIGHTS,)
    if found.config is not None and not any((found.folder / name).is_file() for name in needed):
        if not (found.problems_of("pickle") or found.problems_of("weights")):
            found.findings.wrong(
                "weights",
                f"no .safetensors file {quoted(needed)}",
                "the tensors are read from there",
                "if it was published as a pickle (.bin), download that, and `peftkit convert` it",
            )
    elif not files:
        found.findings.wrong("weights", "no .safetensors file", "there is nothing to load")
    elif len(found.tensors) == len(files):
        stored = [t for tensors in found.tensors.values() for t in tensors.values()]
        found.findings.ok(
            "weights",
            f"{plural(len(stored), 'tensor')}, {size_of(sum(t.end - t.begin for t in stored))}, "
            "without gap or overlap",
        )


def size_of(number: int) -> str:
    """`512 bytes`, `3.1 kB`, `1.4 MB`."""
    if number < 1e3:
        return f"{number} bytes"
    return f"{number / 1e6:.1f} MB" if number >= 1e5 else f"{number / 1e3:.1f} kB"
