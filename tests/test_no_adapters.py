"""Folders that are no adapter, or not a whole one: `verify` says what they are."""

from __future__ import annotations

import json
import pickle
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.verifying import verify
from peftkit.bases.base import Base
from peftkit.bases.files import download_weights, find_local
from peftkit.bases.opening import open_base
from peftkit.cli.main import command_line
from peftkit.errors import AdapterError, BaseModelError

POINTER = (
    b"version https://git-lfs.github.com/spec/v1\n"
    b"oid sha256:4d7a214614ab2935c943f9e0ff69d22eadbb8f32b1258daaa5e2ca24d17e2393\n"
    b"size 12345678\n"
)
PAGE = b"\n<!DOCTYPE html>\n<html><head><title>404</title></head></html>"
LORA = {
    "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8,
    "target_modules": ["q_proj"],
}  # fmt: skip
WEIGHTS = "adapter_model.safetensors"


def weights() -> bytes:
    """A whole safetensors file."""
    header = json.dumps({"x.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    return len(header).to_bytes(8, "little") + header.encode() + bytes(4)


def make(folder: Path, config: object = LORA, **files: bytes) -> str:
    """An adapter folder of these files; names have `__` for a dot."""
    folder.mkdir(parents=True, exist_ok=True)
    text = config if isinstance(config, bytes) else json.dumps(config).encode()
    (folder / "adapter_config.json").write_bytes(text)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_bytes(content)
    return str(folder)


def problems(path: str) -> list[str]:
    return [" | ".join((f.found, f.meaning, f.advice)) for f in verify(path).problems]


STAND_INS = {
    "pointer": (POINTER, "is a Git LFS pointer to 12,345,678 bytes", "`git lfs pull`"),
    "page": (PAGE, "is a web page", "download it again"),
    "empty": (b"", "is damaged: it is empty", "download it again"),
    "text": (b"Invalid username or password.", "holds text, not tensors", "download it again"),
    "error": (b'{"error":"Repository not found"}', "holds text, not tensors", "download it"),
}


@pytest.mark.parametrize("name", STAND_INS)
@pytest.mark.parametrize("ending", ["safetensors", "bin"])
def test_what_stands_for_weights_is_told(tmp_path, name, ending):
    content, told, advice = STAND_INS[name]
    path = make(tmp_path, **{f"adapter_model__{ending}": content})
    (problem,) = problems(path)
    assert f"`adapter_model.{ending}` {told}" in problem
    assert advice in problem
    assert "convert" not in problem


@pytest.mark.parametrize("name", ["pointer", "page", "empty"])
@pytest.mark.parametrize("file", ["adapter_config.json", "tokenizer_config.json", "peftkit.json"])
def test_what_stands_for_settings_is_told(tmp_path, name, file):
    content, told, _ = STAND_INS[name]
    path = make(tmp_path, adapter_model__safetensors=weights())
    (tmp_path / file).write_bytes(content)
    assert any(f"`{file}` {told}" in problem for problem in problems(path))


def test_a_base_folder_of_stand_ins_is_refused_before_it_is_opened(tmp_path, bases):
    folder = Path(shutil.copytree(bases["bert"], tmp_path / "base"))
    find_local(Base(name_or_path=str(folder)))
    for name in ("tokenizer.json", "model.safetensors"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(POINTER)
        with pytest.raises(BaseModelError, match=f"{name}` is a Git LFS pointer to 12,345,678"):
            find_local(Base(name_or_path=str(folder)))
        (folder / name).write_bytes(whole)
    (folder / "model.safetensors").unlink()
    with pytest.raises(BaseModelError, match="has none of the weight files"):
        download_weights(open_base(Base(name_or_path=str(folder))))


def test_a_setting_that_is_given_twice_is_wrong(tmp_path):
    twice = json.dumps(LORA)[:-1].encode() + b', "r": 64}'
    (problem,) = problems(make(tmp_path, twice, adapter_model__safetensors=weights()))
    assert "`r` is given more than once in one object" in problem


def test_a_file_of_another_format_is_told(tmp_path):
    cases = {
        "safetensors as bin": (
            "bin",
            weights(),
            "is a safetensors file with the name of a pickle",
        ),
        "pickle": ("safetensors", pickle.dumps({"x": 1}, 2), "is a pickle, with the name of a"),
        "zip": ("safetensors", b"PK\x03\x04" + bytes(99), "is a zip file, as `torch.save` writes"),
        "gguf": ("safetensors", b"GGUF" + bytes(99), "is a GGUF file, with the name of a"),
        "pickle of text": ("bin", b"cos\nsystem\n(S'true'\ntR.", "is a pickle"),
        "noise": ("safetensors", bytes(range(200)), "is damaged"),
    }
    for name, (ending, content, told) in cases.items():
        path = make(tmp_path / name, **{f"adapter_model__{ending}": content})
        (problem,) = problems(path)
        assert told in problem, name


LIBRARIES: dict[str, tuple[dict[str, Any], str]] = {
    "diffusers": (
        {"_class_name": "UNet2D", "_diffusers_version": "0.30"},
        "a folder of diffusers",
    ),
    "lerobot": ({"base_model": "lerobot/pi0"}, "a folder of lerobot"),
    "mlx": (
        {"fine_tune_type": "lora", "lora_parameters": {"rank": 8}},
        "a folder of mlx-lm",
    ),
    "AdapterHub": ({"architecture": None, "non_linearity": "relu"}, "AdapterHub's `adapters`"),
    "a model": ({"architectures": ["Bert"], "model_type": "bert"}, "is a base, not an adapter"),
    "by hand": ({"r": 8, "lora_alpha": 16, "target_modules": ["q"]}, "`--adapter-setting peft_ty"),
    "nobody": ({"sparkle": 1}, "`sparkle`, fields of no library"),
    "nothing": ({}, "an empty object"),
    "other config": ({"config": {"a": 1}}, "`config`, fields of no library"),
}


@pytest.mark.parametrize("name", LIBRARIES)
def test_a_config_of_another_library_is_told_as_that(tmp_path, name, capsys):
    config, told = LIBRARIES[name]
    path = make(tmp_path, config, adapter_model__safetensors=weights())
    (problem,) = problems(path)
    assert problem.startswith("this is no PEFT adapter")
    assert told in problem
    with pytest.raises(SystemExit) as caught:
        command_line(["verify", path])
    assert caught.value.code == 2
    assert "no adapter that peftkit loads" in capsys.readouterr().out
    with pytest.raises(AdapterError, match="this is no PEFT adapter"):
        inspect(path).raise_if_wrong()


@pytest.mark.parametrize(
    ("files", "told"),
    [
        ({"pytorch_lora_weights.safetensors": b"x"}, "a folder of diffusers"),
        ({"adapters.safetensors": b"x"}, "a folder of mlx-lm"),
        ({"config.json": b"{}"}, "a whole model"),
        ({WEIGHTS: b"x"}, "download their adapter_config.json too"),
        ({"checkpoint-7/adapter_config.json": b"{}"}, "checkpoint-7`, which holds an adapter"),
        ({"notes.txt": b"x"}, "a folder that PEFT has saved"),
    ],
)  # fmt: skip
def test_a_folder_without_a_config_is_told_as_what_it_is(tmp_path, files, told):
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(content)
    with pytest.raises(AdapterError) as caught:
        verify(str(tmp_path))
    assert told in caught.value.hint


def test_fields_of_the_first_versions_of_peft_are_told_as_that(tmp_path):
    files = {"adapter_model__safetensors": weights()}
    fused = {**LORA, "enable_lora": [True, False, True], "merge_weights": False}
    (problem,) = problems(make(tmp_path / "fused", fused, **files))
    assert "`enable_lora` is [True, False, True]" in problem
    assert "PEFT 0.1 and 0.2" in problem
    assert "later PEFT saved it" not in problem
    plain = {**LORA, "enable_lora": None, "merge_weights": False}  # as they wrote it mostly
    found = inspect(make(tmp_path / "plain", plain, **files)).findings
    assert not found.problems
    told = " ".join(f"{f.found} {f.meaning}" for f in found.all if f.result == "note")
    assert "`enable_lora` has no value PEFT 0.1 or 0.2 saved it; it has no effect" in told
    assert "`merge_weights` is False PEFT 0.1 or 0.2 saved it" in told


def test_what_a_trainer_leaves_is_no_fault(tmp_path):
    path = make(
        tmp_path, adapter_model__safetensors=weights(), optimizer__pt=b"\x80\x02.",
        training_args__bin=b"\x80\x02.", rng_state__pth=POINTER,
    )  # fmt: skip
    found = inspect(path).findings
    assert not found.problems
    assert sum("and is not read" in finding.found for finding in found.all) == 3


NOT_JSON_OBJECTS = st.one_of(
    st.binary(max_size=200),
    st.text(max_size=60).map(str.encode),
    st.sampled_from([POINTER, PAGE, b"", weights()]),
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(max_size=9),
        lambda inner: (
            st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3)
        ),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
)
"""Content of an adapter_config.json that names no type of PEFT's."""


@settings(max_examples=150, deadline=None)
@given(NOT_JSON_OBJECTS, st.booleans())
def test_bytes_that_are_no_adapter_are_never_one(content, with_weights):
    with tempfile.TemporaryDirectory() as place:
        files = {"adapter_model__safetensors": weights()} if with_weights else {}
        path = make(Path(place), content, **files)
        findings = verify(path)
        told = [problem.found for problem in findings.problems]
        assert told
        try:
            value = json.loads(content)
        except (ValueError, RecursionError):
            value = None
        if isinstance(value, dict) and findings.exit_code == 2:
            assert told == ["this is no PEFT adapter: adapter_config.json has no `peft_type`"]
        elif not isinstance(value, dict):
            assert any(told_of.startswith("`adapter_config.json`") for told_of in told)


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=300), st.sampled_from(["safetensors", "bin"]))
def test_bytes_that_are_no_weights_are_never_tensors(content, ending):
    with tempfile.TemporaryDirectory() as place:
        path = make(Path(place), **{f"adapter_model__{ending}": content})
        findings = inspect(path).findings
        assert findings.problems
        assert findings.exit_code == 1
