"""Blocks that share weights: merging is refused before weights are loaded, and not advised."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM, ZambaConfig

import peftkit as pk
from peftkit.adapters.loading import open_adapter
from peftkit.cli.main import command_line
from peftkit.deploy.merging.folding import merge, why_not_mergeable
from peftkit.errors import MethodError
from tests.chat_formats import BY_NAME


def make(base: Path, folder: Path, **config: Any) -> Path:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_pretrained(base)
    settings = {"r": 4, "target_modules": ["q_proj"], "task_type": "CAUSAL_LM", **config}
    injected = get_peft_model(model, LoraConfig(**settings))
    for name, parameter in injected.named_parameters():
        if "lora_" in name:
            parameter.data.normal_(std=0.1)
    injected.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def replicated(tmp_path_factory, chat_base):
    """An adapter whose blocks are copies of the base's, and a base without its weights."""
    folder = tmp_path_factory.mktemp("replicated")
    make(chat_base, folder / "a", layer_replication=[[0, 2], [1, 2]])
    shutil.copytree(chat_base, folder / "base")
    (folder / "base" / "model.safetensors").unlink()
    return folder


COMMANDS = (
    ("merge",), ("export", "--to", "safetensors"), ("export", "--to", "gguf"),
    ("export", "--to", "ollama"), ("export", "--to", "vllm"), ("export", "--to", "gguf-lora"),
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_no_command_merges_copies_or_advises_it(replicated, tmp_path, command, capsys):
    name, *options = command
    place = ["--output", str(tmp_path / "out")]
    given = [str(replicated / "a"), "--base", str(replicated / "base")]
    with pytest.raises(SystemExit) as caught:
        command_line([name, *given, *options, *place])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "copies that share their weights (`layer_replication`)" in error
    assert "peftkit merge" not in error
    assert not (tmp_path / "out").exists()


def test_the_adapter_itself_loads(replicated, chat_base):
    adapter = pk.load(str(replicated / "a"), str(chat_base))
    assert adapter.predict(["Where is it?"])
    assert len(adapter.model.get_base_model().model.layers) == 3


def test_a_recipe_with_copies_is_told_that_it_cannot_be_merged():
    config = {"peft_type": "LORA", "r": 4, "target_modules": ["q_proj"]}
    base = pk.Base(name_or_path="org/base")
    assert pk.PeftMethod(config=config).refuses_merging(base) is None
    method = pk.PeftMethod(config={**config, "layer_replication": [[0, 2], [1, 2]]})
    assert "`layer_replication`" in method.refuses_merging(base)


@pytest.fixture(scope="module")
def zamba(tmp_path_factory):
    """An architecture whose attention blocks are one block, used at several depths."""
    folder = tmp_path_factory.mktemp("zamba")
    tokenizer = BY_NAME["ChatML"].tokenizer()
    config = ZambaConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=4, num_attention_heads=4,
        num_key_value_heads=4, intermediate_size=64, mamba_d_state=8, n_mamba_heads=2,
        attn_layer_period=2, attn_layer_offset=0, pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id, bos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_an_architecture_that_shares_blocks_is_told_before_weights(zamba, tmp_path):
    shared = make(zamba, tmp_path / "shared")
    own = make(zamba, tmp_path / "own", target_modules=["in_proj"])  # of modules that are used once
    base = tmp_path / "base"
    shutil.copytree(zamba, base)
    (base / "model.safetensors").unlink()
    with pytest.raises(MethodError, match="share one weight") as caught:
        merge(str(shared), str(base))
    assert "self_attn.q_proj" in caught.value.message
    assert not why_not_mergeable(open_adapter(str(own), str(base)))
