"""Every cell of the matrix does what `tests/matrix.py` asks of it, or is refused with a reason.

`make matrix` runs them all and writes docs/matrix.md; `make test` runs a slice.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

import peftkit as pk
from peftkit.errors import MethodError
from peftkit.run import run
from tests.matrix import (
    ARCHITECTURES,
    CELLS,
    FURTHER,
    FURTHER_CELLS,
    METHODS,
    Cell,
    Outcome,
    examine,
    is_refused,
    save_architecture,
)

SLICE = {
    ("classification", "BERT", "float32"), ("classification", "GPT-2", "int8"),
    ("classification", "Llama", "bfloat16"), ("language model", "Qwen", "nf4"),
    ("language model", "Gemma", "float32"), ("sequence to sequence", "T5", "float32"),
    ("token labels", "BERT", "nf4 double"), ("question answering", "Llama", "fp4"),
    ("classification", "T5", "nf4 bfloat16"), ("label sets", "BERT", "float32"),
    ("number", "BERT", "int8"), ("levels", "Llama", "float32"),
    ("relations", "BERT", "float32"),
}  # fmt: skip
"""Head, architecture and precision of the cells that run without `-m matrix`, for every method."""


def parameters() -> list[object]:
    """The cells; those outside the slice carry the marker `matrix`."""
    return [
        pytest.param(
            cell,
            id=str(cell),
            marks=[] if (cell.head, cell.architecture, cell.precision) in SLICE
            else pytest.mark.matrix,
        )
        for cell in CELLS
    ]  # fmt: skip


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("architectures")
    return {name: save_architecture(folder / name, name) for name in ARCHITECTURES | FURTHER}


@pytest.mark.parametrize("cell", parameters())
def test_cell(cell: Cell, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    outcome = examine(cell, checkpoints[cell.architecture], tmp_path)
    assert bool(outcome.refused) == is_refused(cell), outcome.refused or "is not refused"
    write(cell, outcome)


@pytest.mark.parametrize(
    "cell",
    [
        pytest.param(c, id=str(c), marks=[] if c.architecture == "BLOOM" else pytest.mark.matrix)
        for c in FURTHER_CELLS
    ],
)
def test_further_cell(cell: Cell, checkpoints: dict[str, Path], tmp_path: Path) -> None:
    """It works or is refused; what it may not do is fail, or be wrong."""
    outcome = examine(cell, checkpoints[cell.architecture], tmp_path)
    write(cell, outcome)
    assert bool(outcome.refused) != bool(outcome.differences)


@pytest.mark.parametrize("method", ["LoRA", "TopLayers", "PrefixTuning"])
@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_whole_run_on_every_architecture(
    method: str, architecture: str, checkpoints: dict[str, Path], reviews: Path, tmp_path: Path
) -> None:
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=str(checkpoints[architecture])),
        task=pk.TextClassification(data=pk.Data(path=str(reviews))),
        method=METHODS[method][0],
        training=pk.Training(max_steps=2),
    )
    if (method, architecture) == ("PrefixTuning", "T5"):
        with pytest.raises(MethodError, match="virtual tokens have none"):
            run(recipe, str(tmp_path / "run"))
        return
    done = run(recipe, str(tmp_path / "run"))
    assert done.record.probes.max_difference < 1e-5


def write(cell: Cell, outcome: Outcome) -> None:
    """A line for tests/matrix_report.py, if a matrix is being made."""
    if folder := os.environ.get("PEFTKIT_MATRIX"):
        file = Path(folder) / f"{os.environ.get('PYTEST_XDIST_WORKER', 'main')}.jsonl"
        with file.open("a", encoding="utf-8") as opened:
            opened.write(json.dumps({**vars(cell), **vars(outcome)}) + "\n")


def test_the_slice_has_every_head_architecture_and_precision():
    for part in range(3):
        whole = {(c.head, c.architecture, c.precision)[part] for c in CELLS}
        assert {place[part] for place in SLICE} == whole
    assert len({cell.method for cell in CELLS}) == len(METHODS)


@pytest.mark.parametrize("method", ["PTuning", "PrefixTuning, projected"])
def test_virtual_tokens_are_saved_as_a_model_in_bfloat16_computes_them(
    method: str, checkpoints: dict[str, Path], tmp_path: Path
):
    """Their network is not saved, and in float32 its output is another one."""
    outcome = examine(Cell(method, "number", "Llama", "bfloat16"), checkpoints["Llama"], tmp_path)
    assert outcome.differences["reloads"] < 1e-6
