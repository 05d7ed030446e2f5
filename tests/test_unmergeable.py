"""What cannot be folded into the base is said before weights are loaded, and sizes that contradict
the base before anything is trained.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import peftkit as pk
from peftkit.adapters.loading import open_adapter
from peftkit.adapters.merging import merge, why_not_mergeable
from peftkit.errors import MethodError
from peftkit.preparing import prepare
from tests.test_matching import LORA, inject


@pytest.fixture
def saved(tmp_path, chat_base):
    """Folders of plain PEFT's, by further fields of a LoRA of q_proj."""

    def make(**fields: object) -> Path:
        base = AutoModelForCausalLM.from_pretrained(chat_base)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            config = peft.LoraConfig(
                task_type="CAUSAL_LM", r=4, target_modules=["q_proj"], **fields
            )  # fmt: skip
            model = peft.get_peft_model(base, config)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                torch.nn.init.normal_(parameter, std=0.1)
        pk.LoRA().save(model, tmp_path / "adapter")
        return tmp_path / "adapter"

    return make


@pytest.mark.parametrize(
    ("fields", "told"),
    [
        ({"lora_bias": True}, "has trained a bias of `model.layers.0.self_attn.q_proj`"),
        ({"alora_invocation_tokens": [5]}, "what follows its invocation tokens"),
    ],
)  # fmt: skip
def test_a_lora_that_peft_cannot_merge_is_refused_before_weights(saved, chat_base, fields, told):
    folder = saved(**fields)
    pk.load(str(folder), str(chat_base))
    with pytest.raises(MethodError) as caught:
        merge(str(folder), str(chat_base))
    assert told in caught.value.message
    assert "keep the adapter" in caught.value.message


def test_what_is_given_without_effect_stays_mergeable(saved, chat_base):
    folder = saved(use_rslora=True, alora_invocation_tokens=None)
    assert not why_not_mergeable(open_adapter(str(folder), str(chat_base)))


def test_a_lora_bias_where_the_base_has_biases_is_merged(tmp_path, bases):
    from transformers import AutoModel

    base = AutoModel.from_pretrained(bases["bert"])
    config = peft.LoraConfig(r=4, target_modules=["query"], lora_bias=True)
    model = peft.get_peft_model(base, config)
    pk.LoRA().save(model, tmp_path / "adapter")
    found = open_adapter(str(tmp_path / "adapter"), str(bases["bert"]))
    assert not why_not_mergeable(found)


def test_check_says_it_beforehand(make_chat):
    method = pk.PeftMethod(config={**LORA, "lora_bias": True})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)  # PEFT's own words are not shown
        prepared = prepare(make_chat(method))
    assert any("cannot be merged: `lora_bias`" in note for note in prepared.ledger.notes)
    alora = pk.PeftMethod(config={**LORA, "alora_invocation_tokens": [5]})
    assert "`alora_invocation_tokens`" in alora.supports_merging(pk.Base(name_or_path="x"))


@given(st.integers(80, 10**6), st.integers(0, 79))
def test_tokens_beyond_the_embedding_invoke_nothing(beyond, there):
    config = {**LORA, "alora_invocation_tokens": [there, beyond]}
    with pytest.raises(MethodError, match=f"alora_invocation_tokens`: {beyond} is no row"):
        inject(pk.PeftMethod(config=config))
    inject(pk.PeftMethod(config={**config, "alora_invocation_tokens": [there]}))


WRONG_SIZES = [
    ("PREFIX_TUNING", "num_layers", 7, 3), ("PREFIX_TUNING", "num_layers", 2, 3),
    ("PREFIX_TUNING", "num_transformer_submodules", 2, 1), ("PROMPT_TUNING", "token_dim", 16, 32),
    ("PROMPT_TUNING", "num_layers", 9, 3), ("P_TUNING", "num_attention_heads", 8, 4),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "name", "value", "own"), WRONG_SIZES)
def test_sizes_that_contradict_the_base_are_told(kind, name, value, own):
    more = {"encoder_hidden_size": 32} if kind == "P_TUNING" else {}
    config = {"peft_type": kind, "num_virtual_tokens": 4, **more}
    with pytest.raises(MethodError) as caught:
        inject(pk.PeftMethod(config={**config, name: value}))
    assert f"`method.config.{name}` is {value}, and LlamaForCausalLM has {own}" in str(caught.value)
    inject(pk.PeftMethod(config=config))


def test_sizes_that_are_the_base_s_may_be_given():
    for heads, width in ((4, 32), (2, 16)):  # of queries, and of keys and values
        config = {
            "peft_type": "PREFIX_TUNING", "num_virtual_tokens": 4, "num_layers": 3,
            "num_attention_heads": heads, "token_dim": width,
        }  # fmt: skip
        inject(pk.PeftMethod(config=config))
