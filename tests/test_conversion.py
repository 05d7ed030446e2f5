"""`peftkit convert`: pickles become safetensors files with the same numbers, or are told as what
they are.
"""

from __future__ import annotations

import io
import json
import os
import pickle
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.published import unpickling
from peftkit.adapters.published.conversion import _pickles, convert
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, OutputError

LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 2, "lora_alpha": 8,
    "target_modules": ["q_proj"],
}  # fmt: skip


class Runs:
    """Would write a file if it were unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.file),)


def folder_of(folder: Path, tensors: Any, name: str = "adapter_model.bin") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "adapter_config.json").write_text(json.dumps(LORA))
    torch.save(tensors, folder / name)
    return folder


def some_tensors() -> dict[str, torch.Tensor]:
    shared = torch.randn(4, 4)
    return {
        "a": torch.randn(3, 2), "half": torch.randn(5).half(), "b": torch.randn(2).bfloat16(),
        "nan": torch.tensor([float("nan"), float("inf")]), "number": torch.tensor(3),
        "shared": shared, "again": shared, "row": shared[1], "turned": shared.T,
        "none": torch.zeros(0, 3),
    }  # fmt: skip


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.dtype == other.dtype and torch.equal(one.nan_to_num(7), other.nan_to_num(7))


def test_a_pickle_becomes_the_same_tensors_and_nothing_is_overwritten(tmp_path, capsys):
    tensors = some_tensors()
    folder = folder_of(tmp_path / "a", tensors)
    before = (folder / "adapter_model.bin").read_bytes()
    command_line(["convert", str(folder)])
    said = capsys.readouterr().out
    assert "adapter_model.safetensors: 10 tensors, 4 of them shared storage" in said
    written = load_file(folder / "adapter_model.safetensors")
    assert written.keys() == tensors.keys()
    assert all(same(written[name], tensor) for name, tensor in tensors.items())
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.bin", "adapter_model.safetensors",
    ]  # fmt: skip
    assert (folder / "adapter_model.bin").read_bytes() == before
    assert inspect(str(folder)).passed
    stamp = (folder / "adapter_model.safetensors").stat().st_mtime_ns
    for path in (folder, folder / "adapter_model.bin"):
        with pytest.raises(OutputError, match="exists already, and nothing is overwritten"):
            convert(str(path))
    assert (folder / "adapter_model.safetensors").stat().st_mtime_ns == stamp


def on_a_gpu(file: Path) -> None:
    """Makes of a pickle one whose numbers lay on a GPU."""
    made = io.BytesIO()
    with zipfile.ZipFile(file) as old, zipfile.ZipFile(made, "w", zipfile.ZIP_STORED) as new:
        for entry in old.infolist():
            content = old.read(entry)
            if entry.filename.endswith("data.pkl"):
                assert b"X\x03\x00\x00\x00cpu" in content
                content = content.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0")
            new.writestr(entry.filename, content)
    file.write_bytes(made.getvalue())


def test_the_printed_command_converts_what_was_saved_on_a_gpu(tmp_path):
    folder = folder_of(tmp_path, {"a": torch.arange(6.0)})
    on_a_gpu(folder / "adapter_model.bin")
    with pytest.raises(RuntimeError, match="CUDA"):
        torch.load(folder / "adapter_model.bin", weights_only=True)
    (problem,) = inspect(str(folder)).findings.problems
    command = problem.advice.split("in its folder: ")[1]
    assert command == "python -m peftkit convert adapter_model.bin"
    root = str(Path(unpickling.__file__).parents[3])
    done = subprocess.run(
        command.replace("python", sys.executable, 1), shell=True, cwd=folder, check=False,
        capture_output=True, text=True, env={**os.environ, "PYTHONPATH": root},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert torch.equal(load_file(folder / "adapter_model.safetensors")["a"], torch.arange(6.0))


def broken(folder: Path) -> dict[str, tuple[Any, str]]:
    """What is no pickle of tensors: an object that is saved, or bytes; and what is said of it."""
    whole = io.BytesIO()
    torch.save({"a": torch.ones(50)}, whole)
    return {
        "code": ({"a": torch.ones(1), "b": Runs(folder / "ran")}, "it asks for `posix.mkdir`"),
        "old code": (pickle.dumps(Runs(folder / "ran"), 2), "it asks for `posix.mkdir`"),
        "list": ([torch.ones(1)], "it holds list, not tensors by name"),
        "nested": ({"model": {"a": torch.ones(1)}, "step": 3}, "`model` is dict, `step` is int"),
        "numbers": ({1: torch.ones(1)}, "the name 1 is int"),
        "nothing": ({}, "it holds no tensors"),
        "sparse": (
            {"a": torch.eye(3).to_sparse()},
            "safetensors cannot hold `a`: it is no plain tensor",
        ),
        "huge": ({"a": torch.ones(1).expand(10**7, 10**3)}, "its tensors claim 40,000,000,000"),
        "cut": (whole.getvalue()[:-90], "it is damaged or cut off"),
        "noise": (bytes(range(256)), "it was not written by `torch.save`, or is damaged"),
        "pointer": (b"version https://git-lfs.github.com/spec/v1\nsize 9\n", "a Git LFS pointer"),
        "page": (b"<html>404</html>", "is a web page"),
        "empty": (b"", "is damaged: it is empty"),
    }


BY_ITSELF = ("code", "pointer", "page", "empty")
"""Those that are converted by the command; the others by what it runs, in this process."""


@pytest.mark.parametrize("name", sorted(broken(Path())))
def test_what_is_no_pickle_of_tensors_is_told_in_one_line(tmp_path, name, capsys):
    content, told = broken(tmp_path)[name]
    folder = folder_of(tmp_path / "a", {} if isinstance(content, bytes) else content)
    file = folder / "adapter_model.bin"
    if isinstance(content, bytes):
        file.write_bytes(content)
    if name in BY_ITSELF:
        with pytest.raises(SystemExit) as caught:
            command_line(["convert", str(folder)])
        assert caught.value.code == 2
        error, _, _ = capsys.readouterr().err.partition("\n\nhint: ")
        assert error.startswith("error: ")
    else:
        with pytest.raises(unpickling.Refused) as refused:
            unpickling._tensors(unpickling._load(str(file)), file.stat().st_size)
        error = refused.value.message
    assert told in error
    assert len(error.splitlines()) == 1
    assert not (tmp_path / "ran").exists()
    assert sorted(file.name for file in folder.iterdir()) == [
        "adapter_config.json", "adapter_model.bin",
    ]  # fmt: skip


def test_which_pickle_is_meant_is_told_or_asked(tmp_path):
    folder = folder_of(tmp_path / "a", {"a": torch.ones(2)})
    torch.save({"b": torch.ones(2)}, folder / "optimizer.pt")
    assert [file.name for file in _pickles(folder)] == ["adapter_model.bin"]
    other = folder_of(tmp_path / "b", {"a": torch.ones(2)}, "one.pt")
    assert [file.name for file in _pickles(other)] == ["one.pt"]
    torch.save({"b": torch.ones(2)}, other / "two.pt")
    with pytest.raises(AdapterError, match="which are not names that PEFT or"):
        convert(str(other))
    hub = tmp_path / "hub"
    hub.mkdir()
    for name in ("pytorch_adapter.bin", "pytorch_model_head.bin"):
        torch.save({"a": torch.ones(2)}, hub / name)
    assert len(_pickles(hub)) == 2
    (hub / "pytorch_adapter.safetensors").touch()
    assert [file.name for file in _pickles(hub)] == ["pytorch_model_head.bin"]


def test_what_needs_no_conversion_is_told(tmp_path):
    save_file({"a": torch.ones(1)}, tmp_path / "x.safetensors")
    (tmp_path / "x.txt").write_text("x")
    (tmp_path / "none").mkdir()
    for name, told in (
        ("x.safetensors", "a safetensors file already"), ("none", "holds no pickle"),
        ("x.txt", "is not named as a pickle"), ("nowhere", "no file or folder"),
    ):  # fmt: skip
        with pytest.raises(AdapterError, match=told):
            convert(str(tmp_path / name))


def test_the_process_of_a_pickle_has_no_network_and_starts_nothing(tmp_path):
    code = (
        "import runpy, socket, subprocess, os, sys\n"
        "module = runpy.run_path(sys.argv[1], run_name='not_main')\n"
        "module['_refuse_all_but'](sys.argv[2])\n"
        "tried = [lambda: socket.socket(), lambda: socket.create_connection(('localhost', 9)),\n"
        "         lambda: subprocess.run(['true']), lambda: os.system('true'),\n"
        "         lambda: open(sys.argv[2] + 'x', 'w'), lambda: os.remove(sys.argv[1])]\n"
        "for act in tried:\n"
        "    try:\n"
        "        act()\n"
        "        print('done')\n"
        "    except PermissionError as error:\n"
        "        print('refused')\n"
        "open(sys.argv[2], 'w').close()\n"
    )
    output = tmp_path / "out"
    done = subprocess.run(
        [sys.executable, "-c", code, unpickling.__file__, str(output)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == ["refused"] * 6
    assert output.exists()
    assert Path(unpickling.__file__).exists()


def test_a_folder_of_peft_s_and_its_conversion_load_alike(chat_base, tmp_path):
    from peft import LoraConfig, PeftModel, get_peft_model
    from transformers import AutoModelForCausalLM

    import peftkit as pk

    torch.manual_seed(0)
    config = LoraConfig(r=4, target_modules=["q_proj"], task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(chat_base), config)
    model.save_pretrained(tmp_path / "a", safe_serialization=False)
    shutil.copytree(tmp_path / "a", tmp_path / "b")
    convert(str(tmp_path / "b"))
    ids = torch.tensor([[5, 9, 11]])
    plain = PeftModel.from_pretrained(
        AutoModelForCausalLM.from_pretrained(chat_base), tmp_path / "a"
    )
    found = pk.load(str(tmp_path / "b"), str(chat_base)).model
    with torch.no_grad():
        assert torch.allclose(plain.eval()(ids).logits, found(ids).logits, atol=1e-6)
