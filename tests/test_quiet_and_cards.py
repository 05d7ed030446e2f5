"""`peftkit.load` is as quiet as the commands; cards are right on any machine; methods of one's own
are told from wrong bases.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import threading
import warnings
from pathlib import Path
from typing import Any

import pytest

import peftkit as pk
from peftkit.adapters.card import write_card
from peftkit.adapters.record import Record, versions
from peftkit.adapters.recorded_recipe import RecordedRecipe
from peftkit.adapters.verifying import verify
from peftkit.bases.fingerprint import RecordedBase
from peftkit.bases.quiet_libraries import NOISY, quietly
from peftkit.cli.main import command_line
from peftkit.data.head import Head
from peftkit.data.packaged import MODELS
from peftkit.deploy.merging.card import write_merged_card
from peftkit.methods.method import Method
from peftkit.methods.peft.adapter_config import AdapterConfig
from peftkit.parts.scripts import import_trusted
from peftkit.reports.merge_report import BothScores, Distance, MergeReport
from peftkit.run import run


def state() -> Any:
    """What a program may have set of how the libraries talk."""
    from huggingface_hub.utils import are_progress_bars_disabled
    from transformers.utils import logging as notes

    levels = [logging.getLogger(name).level for name in ("transformers", *NOISY)]
    bars = notes.is_progress_bar_enabled(), are_progress_bars_disabled()
    return levels, bars, list(warnings.filters)


@pytest.fixture
def chatty():
    """The libraries say all that they have to say."""
    from transformers.utils import logging as notes

    before, bars = notes.get_verbosity(), notes.is_progress_bar_enabled()
    notes.set_verbosity_info()
    notes.enable_progress_bar()
    yield
    notes.set_verbosity(before)
    if not bars:
        notes.disable_progress_bar()


def test_loading_and_answering_say_nothing_and_change_nothing(make_recipe, tmp_path, chatty, capfd):
    done = run(make_recipe(max_steps=1), str(tmp_path / "run"))
    capfd.readouterr()
    before = state()
    adapter = pk.load(str(done.folder))
    adapter.predict(["a warm film"])
    adapter.load_base()
    said = capfd.readouterr()
    assert (said.out, said.err) == ("", "")
    assert state() == before
    with pytest.raises(ZeroDivisionError), quietly():
        raise ZeroDivisionError
    assert state() == before


def test_threads_that_overlap_leave_things_as_they_were(chatty):
    before = state()
    entered, left = threading.Event(), threading.Event()

    def other() -> None:
        with quietly():
            entered.set()
            left.wait(10)

    thread = threading.Thread(target=other)
    with quietly():
        thread.start()
        assert entered.wait(10)
    assert state() != before  # the other one is still inside
    left.set()
    thread.join(10)
    assert state() == before


def test_a_first_load_of_a_process_says_nothing(make_recipe, tmp_path):
    done = run(make_recipe(max_steps=1), str(tmp_path / "run"))
    code = "import sys, peftkit; peftkit.load(sys.argv[1]).predict(['a warm film'])"
    said = subprocess.run(
        [sys.executable, "-c", code, str(done.folder)], capture_output=True, text=True, check=True
    )
    assert (said.stdout, said.stderr) == ("", "")


SMOLLM = MODELS["smollm2-135m-instruct"]


def record_on(name: str, quantization: str = "none", file: str = SMOLLM.path) -> Record:
    """What a chat run leaves of itself, on a GGUF base."""
    base = RecordedBase(
        name=name, hub_id="", revision="", quantization=quantization, double_quant=False,
        files={file: SMOLLM.sha256}, sha256="0", dtype="float32", num_hidden_layers=30,
    )  # fmt: skip
    recipe = pk.Recipe(
        base=pk.Base(name_or_path=name, quantization=quantization),
        task=pk.Chat(data=pk.Conversations(path="x.jsonl")),
        method=pk.LoRA(),
    )
    return Record(
        recipe=RecordedRecipe.of(recipe), base=base, tokenizer_sha256="",
        chat_template_sha256="", head=Head("AutoModelForCausalLM", "CAUSAL_LM", trained=False),
        weights={}, tensors={}, peft_config=AdapterConfig({"peft_type": "LORA"}), configs={},
        metrics={"after": {"loss": 1.0}}, probes=(), versions=versions(),
    )  # fmt: skip


def card_of(folder: Path, record: Record) -> str:
    (folder / "adapter_config.json").write_text("{}")
    write_card(folder, "talk", record, pk.Chat(data=pk.Conversations(path="x.jsonl")))
    return (folder / "README.md").read_text()


def test_the_card_of_a_packaged_base_names_the_hub_s_file_and_its_quantization(tmp_path):
    text = card_of(tmp_path, record_on("packaged:smollm2-135m-instruct"))
    assert f"base_model: {SMOLLM.origin}" in text
    assert f"the file `{SMOLLM.path}` of `{SMOLLM.origin}` on the Hub" in text
    assert "were quantized to Q4_1 before" in text
    assert f'from_pretrained("{SMOLLM.origin}", gguf_file="{SMOLLM.path}", revision="' in text
    assert ".cache" not in text
    assert "path/to/the/base" not in text
    quantized = card_of(tmp_path, record_on("packaged:smollm2-135m-instruct", "nf4"))
    assert ".cache" not in quantized
    assert 'from_pretrained("path/to/the/base"' in quantized
    command = "open_base(Base(name_or_path='packaged:smollm2-135m-instruct')).folder"
    assert command in quantized
    other = card_of(tmp_path, record_on("mine.gguf", file="mine.gguf"))
    assert ".cache" not in other
    assert "open_base(Base(name_or_path='path/to/mine.gguf')).folder" in other


def test_so_does_the_card_of_the_merged_model(tmp_path):
    record = record_on("packaged:smollm2-135m-instruct")
    same = Distance(1, 0.0, 0.0, 0.0, 1.0)
    report = MergeReport(
        into="trained", scale=1, dtype="float32", max_abs_dlogit=0.0, relative=0.0, kl=0.0,
        top1_agreement=1.0, tolerance=1e-5, probes=same, validation=None,
        score=BothScores({}, {}), validation_absent="", seconds=1.0, peak_memory_mb=1.0,
        adapter={}, files={}, versions={},
    )  # fmt: skip
    write_merged_card(tmp_path, "talk", record, report)
    text = (tmp_path / "README.md").read_text()
    assert f"base_model: {SMOLLM.origin}" in text
    assert "were quantized to Q4_1 before" in text


OWN = """
from peftkit.methods.head_only import HeadOnly


class Mine(HeadOnly):
    '''As its parent, by another name.'''
"""


def test_a_method_of_one_s_own_could_not_be_checked_or_is(
    make_recipe, bases, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Method, "kinds", {**Method.kinds})
    monkeypatch.setattr(sys, "path", [*sys.path])
    (tmp_path / "own_method.py").write_text(OWN)
    import_trusted("own_method.py")
    mine = Method.kinds["own_method:Mine"]
    done = run(make_recipe(mine(), max_steps=1), str(tmp_path / "run"))
    path = str(done.folder)
    assert not verify(path).problems
    trusted = ["--trust-module", "own_method.py"]
    monkeypatch.delitem(Method.kinds, "own_method:Mine")  # as in another process
    command_line(["verify", path])
    said = " ".join(capsys.readouterr().out.split())
    assert "its method is `own_method:Mine`, a class from outside peftkit" in said
    assert "tensors and answers were not checked" in said
    assert "`--trust-module own_method`" in said
    assert "nothing is wrong with what could be checked" in said
    for command in (["predict", path, "--text", "x"], ["merge", path, "--output", "no"]):
        with pytest.raises(SystemExit) as caught:
            command_line(command)
        assert caught.value.code == 2
        assert "`--trust-module own_method`" in capsys.readouterr().err
    for module in (trusted, ["--trust-module", "own_method"]):
        monkeypatch.setattr(Method, "kinds", {**Method.kinds})
        Method.kinds.pop("own_method:Mine", None)
        sys.modules.pop("own_method", None)
        command_line(["verify", path, *module])
        assert "within" in capsys.readouterr().out
    command_line(["predict", path, "--text", "a warm film", *trusted])
    command_line(["merge", path, "--output", "merged", *trusted])
    assert "it answers as the adapter does" in capsys.readouterr().out
    (done.folder / "adapter" / "peftkit.json").write_text("{}")
    assert verify(path).problems
