"""A record is a value in memory and the same JSON in its file, of older versions too."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from peftkit import HeadOnly
from peftkit.adapters.record import Record
from peftkit.errors import AdapterError
from peftkit.experiments.comparing.comparison import read_comparison
from peftkit.parts.json_values import differences
from peftkit.reports.run_record import RunRecord, read_run
from peftkit.run import run

TABLES = Path(__file__).parents[1] / "benchmarks" / "peft_vs_full"


@pytest.fixture(scope="module")
def done(make_recipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "run"
    return run(make_recipe(HeadOnly(), max_steps=2), str(folder))


def test_a_run_is_read_back_as_it_was(done):
    assert read_run(done.folder) == done.record
    assert done.record.to_json() == json.loads((done.folder / "run.json").read_text())
    assert done.record.recipe.read().name == "tiny"


def test_a_run_of_another_version_is_read(done):
    """It lacks what is newer, and has what is gone."""
    older = json.loads((done.folder / "run.json").read_text())
    for name in ("start", "serve", "peaks_mb"):
        del older[name]
    del older["test"]["probe"], older["test"]["of_samples"]
    older["test"]["answers"] = {"before": {"rouge_l": 0.1}, "after": {"rouge_l": 0.4}}
    older["recipe"]["training"]["gone"] = older["gone"] = 1
    record = RunRecord.from_json(older)
    assert record.test.after == {**done.record.test.after, "rouge_l": 0.4}
    assert (record.test.before["rouge_l"], record.test.of_samples) == (0.1, ("rouge_l",))
    assert (record.start, record.serve, record.test.probe) == (None, {}, None)
    with pytest.raises(ValueError, match="data_sha256"):
        RunRecord.from_json({**older, "data_sha256": None})


def test_what_an_adapter_says_of_itself_is_read_back_as_it_was(done, tmp_path):
    file = done.folder / "adapter" / "peftkit.json"
    record = Record.read(file.parent)
    record.write(tmp_path)
    assert (tmp_path / "peftkit.json").read_bytes() == file.read_bytes()
    assert record.base == done.record.base
    older = json.loads(file.read_text())
    for name in ("tensors", "peft_config", "sha256"):
        del older[name]
    del older["base"]["num_hidden_layers"]
    (tmp_path / "peftkit.json").write_text(json.dumps(older))
    again = Record.read(tmp_path)
    assert (again.tensors, again.peft_config, again.rewound) == ({}, {}, None)
    assert again.recipe == record.recipe
    (tmp_path / "peftkit.json").write_text(json.dumps({**older, "weights": 5}))
    with pytest.raises(AdapterError, match="is damaged: `weights`: "):
        Record.read(tmp_path)


@pytest.mark.parametrize("name", ["rotten_tomatoes", "synopses"])
def test_a_comparison_of_an_older_version_is_read(name):
    """All of it comes back; what it lacks is unknown."""
    folder = TABLES / name
    older = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    comparison = read_comparison(folder)
    again = comparison.to_json()
    rows = list(zip(older.pop("rows"), again.pop("rows"), strict=True))
    assert again == older
    for was, now in rows:
        assert now.pop("trained_out") is None
        assert not differences(was, now)
