"""Odd values of a configuration, and odd files, are told as what they are."""

from __future__ import annotations

import codecs
import io
import json
import tarfile
from pathlib import Path

import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

import peftkit as pk
from peftkit.adapters.inspection.inspecting import inspect
from peftkit.adapters.published.conversion import convert
from peftkit.adapters.verifying import verify
from peftkit.errors import AdapterError, PeftkitError
from peftkit.methods.peft.field_types import KINDS
from tests.test_adapter_settings import folder_of, of_peft
from tests.test_fast_paths import setting
from tests.test_matching import LORA, inject

TOLD = {
    "target_modules": {"[": "not a regular expression", 5: "is 5, not a list"},
    "exclude_modules": {"[": "not a regular expression", 5: "is 5, not a list"},
    "layers_pattern": {"(": "not a regular expression"},
    "modules_to_save": {"lm_head": "give a list, `['lm_head']`"},
    "trainable_token_indices": {5: "is 5, not a list"},
    "use_rslora": {"false": "is the text 'false', not true or false"},
    "megatron_core": {5: "is 5, not a text"},
}


@pytest.mark.parametrize(
    ("name", "value", "told"), [(n, v, t) for n, values in TOLD.items() for v, t in values.items()]
)
def test_a_value_of_another_type_is_refused_when_it_is_made(name, value, told):
    with pytest.raises(pydantic.ValidationError) as caught:
        pk.PeftMethod(config={**LORA, name: value})
    assert f"`{name}`" in str(caught.value)
    assert told in str(caught.value)


@pytest.mark.parametrize(
    "fields",
    [
        {"target_modules": ["q_proj", 5]}, {"layer_replication": [0, 2]},
        {"trainable_token_indices": {"embed_tokens": 5}}, {"megatron_config": {"a": 1}},
    ],
)  # fmt: skip
def test_what_is_within_is_looked_at_too(fields):
    with pytest.raises(pydantic.ValidationError, match=f"`{next(iter(fields))}`"):
        pk.PeftMethod(config={**LORA, **fields})


def test_a_value_that_peft_does_not_list_is_told():
    config = {"peft_type": "SHIRA", "r": 2, "target_modules": ["q_proj"], "mask_type": "randon"}
    with pytest.raises(PeftkitError, match="did you mean `random`"):
        inject(pk.PeftMethod(config=config))
    model, encoded = setting("llama", "AutoModelForCausalLM")
    pk.PeftMethod(config={**config, "mask_type": "random"}).inject(model, encoded, ())


ODD = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 5), st.text(max_size=4), st.floats(-1, 2),
    st.lists(st.integers(0, 3) | st.text(max_size=3), max_size=3),
    st.dictionaries(st.sampled_from(["q_proj", "(", "a"]), st.integers(-1, 9), max_size=2),
)  # fmt: skip
LORA_FIELDS = sorted(KINDS.keys() & of_peft("LORA").keys() - {"peft_version", "auto_mapping"})


@given(st.sampled_from(LORA_FIELDS), ODD)
def test_no_value_of_a_field_ends_in_a_traceback(name, value):
    try:
        inject(pk.PeftMethod(config={**LORA, name: value}))
    except (PeftkitError, pydantic.ValidationError):
        return


@pytest.mark.parametrize(
    ("encoding", "told"),
    [("utf-16", "UTF-16"), ("utf-16-le", "UTF-16"), ("utf-32", "UTF-32"), ("latin-1", "Latin-1")],
)
def test_the_encoding_of_a_config_is_told(tmp_path, encoding, told):
    folder_of(tmp_path, config := {**of_peft("LORA"), "revision": "café"})
    text = json.dumps(config, ensure_ascii=False)
    (tmp_path / "adapter_config.json").write_bytes(text.encode(encoding))
    problem = inspect(str(tmp_path)).findings.problems[0]
    assert told in problem.found
    assert problem.advice == "save it as UTF-8"


def test_a_mark_of_utf_8_is_read(tmp_path, chat_base):
    base = AutoModelForCausalLM.from_pretrained(chat_base)
    config = LoraConfig(task_type="CAUSAL_LM", r=2, target_modules=["q_proj"])
    get_peft_model(base, config).save_pretrained(tmp_path)
    file = tmp_path / "adapter_config.json"
    file.write_bytes(codecs.BOM_UTF8 + file.read_bytes())
    assert not verify(str(tmp_path), str(chat_base)).problems
    assert pk.load(str(tmp_path), str(chat_base)).model.peft_config["default"].r == 2


def test_a_policy_of_lerobot_s_is_no_whole_model(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({"type": "act", "n_obs_steps": 1}))
    with pytest.raises(AdapterError) as caught:
        inspect(str(tmp_path))
    assert "lerobot" in caught.value.hint
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    with pytest.raises(AdapterError) as caught:
        inspect(str(tmp_path))
    assert "whole model" in caught.value.hint


def test_a_tar_file_is_not_accused(tmp_path):
    file = tmp_path / "adapter_model.bin"
    with tarfile.open(file, "w") as archive:
        archive.addfile(tarfile.TarInfo("storages"), io.BytesIO())
    with pytest.raises(AdapterError) as caught:
        convert(str(file))
    assert "it is a tar file" in caught.value.message
    assert "rmtree" not in caught.value.message
    torch.save({"a": torch.ones(2)}, file)
    assert [Path(done.output).name for done in convert(str(file))] == ["adapter_model.safetensors"]
