"""`peftkit convert`: writes the tensors of a pickle to a safetensors file beside it.

The pickle is opened in a separate process; `unpickling` says what this process may do.
"""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from peftkit.adapters.folders import user_path
from peftkit.adapters.inspection.adapterhub_format import SAME_AS
from peftkit.adapters.inspection.digests import WEIGHTS
from peftkit.adapters.inspection.headers import read_header
from peftkit.adapters.inspection.weight_files import PICKLES
from peftkit.atomic import atomic_path
from peftkit.bases.stand_ins import weights_stand_in
from peftkit.errors import AdapterError, OutputError, not_found, quoted

KNOWN = (f"{Path(WEIGHTS).stem}.bin", *SAME_AS)
"""Names of pickles written by PEFT and AdapterHub."""


@dataclass(frozen=True)
class Converted:
    """A pickle, and the safetensors file written from it."""

    source: Path
    output: Path
    tensors: int
    shared: int
    """Number of tensors that shared storage in the pickle."""

    def to_json(self) -> dict[str, object]:
        """The JSON object for `--json`: paths, and numbers of tensors."""
        return {
            "source": str(self.source), "output": str(self.output), "tensors": self.tensors,
            "shared": self.shared,
        }  # fmt: skip


def convert(path: str) -> list[Converted]:
    """Converts a pickle, or the pickles in an adapter folder, to safetensors files beside them.

    Overwrites no file. A new file gets its final name only after its tensors were read back and
    equal the tensors of the pickle.

    Raises:
        AdapterError: there is no pickle, or it holds more than named tensors.
        OutputError: the safetensors file exists, or cannot be written.
    """
    place = user_path(path)
    if not place.exists():
        raise AdapterError(f"no file or folder `{path}`", not_found(place))
    sources = _pickles(place) if place.is_dir() else [place]
    for source in sources:
        _check(source)
    return [_converted(source) for source in sources]


def _pickles(folder: Path) -> list[Path]:
    """The unconverted pickles in an adapter folder; all pickles if all are converted."""
    inner = folder / "adapter"
    folder = inner if inner.is_dir() else folder
    files = sorted(f for f in folder.iterdir() if f.is_file() and f.suffix in PICKLES)
    known = [file for file in files if file.name in KNOWN]
    if not files:
        raise AdapterError(f"`{folder}` holds no pickle", "there is nothing to convert")
    if not known and len(files) > 1:
        raise AdapterError(
            f"`{folder}` holds {quoted(file.name for file in files)}, which are not names that "
            "PEFT or AdapterHub writes",
            "give the path of the pickle to convert",
        )
    sources = known or files
    return [file for file in sources if not _output_path(file).exists()] or sources


def _output_path(source: Path) -> Path:
    return source.with_suffix(".safetensors")


def _check(source: Path) -> None:
    """Raises AdapterError if a file is no pickle, and OutputError if its output exists."""
    if source.suffix == ".safetensors":
        raise AdapterError(f"`{source}` is a safetensors file already", "it needs no conversion")
    if source.suffix not in PICKLES:
        raise AdapterError(
            f"`{source}` is not named as a pickle", f"names of pickles end in {quoted(PICKLES)}"
        )
    if instead := weights_stand_in(source):
        raise AdapterError(f"`{source}` {instead.what}", instead.advice)
    if _output_path(source).exists() or _output_path(source).is_symlink():
        raise OutputError(
            f"`{_output_path(source)}` exists already, and nothing is overwritten",
            f"peftkit reads that file; `peftkit verify {source.parent}` checks it",
        )


def _converted(source: Path) -> Converted:
    output = _output_path(source.absolute())
    try:
        with atomic_path(output, a_file=True) as partial:
            report = _run(source, partial)
            if (written := len(read_header(partial))) != report.tensors:
                raise AdapterError(f"`{source}`: wrote {written} of {report.tensors} tensors")
    except OutputError as error:
        raise OutputError(
            error.message, "copy the folder to a place where you can write"
        ) from error
    return Converted(source, _output_path(source), report.tensors, report.shared)


@dataclass(frozen=True)
class _Report:
    """The numbers in the report that `unpickling` prints."""

    tensors: int
    shared: int


def _run(source: Path, partial: Path) -> _Report:
    """Runs `unpickling` on a file, in a separate process; returns the report.

    Raises:
        AdapterError: the file was refused, or the process ended without a report.
    """
    program = str(Path(__file__).with_name("unpickling.py"))
    command = [sys.executable, "-P", program, str(source.absolute()), str(partial)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        report = json.loads(done.stdout.strip().rpartition("\n")[2])
    except ValueError as error:
        last = done.stderr.strip().rpartition("\n")[2]
        raise AdapterError(
            f"`{source}` cannot be converted: the process that opened it ended with "
            f"exit code {done.returncode}" + (f": {last[:200]}" if last else ""),
            "memory may have run out" if done.returncode < 0 else "",
        ) from error
    if "error" in report:
        raise AdapterError(f"`{source}` cannot be converted: {report['error']}", report["hint"])
    return _Report(report["tensors"], report["shared"])
