"""What cannot be folded into the base is said before weights are loaded, and sizes that contradict
the base before anything is trained.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import peft
import pytest
import torch
import transformers
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

import peftkit as pk
from peftkit.adapters.loading import open_adapter
from peftkit.adapters.probes import MERGED, compare_probes, take_probes
from peftkit.deploy.merging.folding import merge, why_not_mergeable
from peftkit.errors import AdapterError, MethodError
from peftkit.stages.preparing import prepare
from tests.conftest import save_tokenizer
from tests.test_fast_paths import setting
from tests.test_matching import LORA, inject

ENCODED = setting("llama", "AutoModelForCausalLM")[1]


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
    assert "`alora_invocation_tokens`" in alora.refuses_merging(pk.Base(name_or_path="x"))


@given(st.integers(80, 10**6), st.integers(0, 79))
def test_tokens_beyond_the_embedding_invoke_nothing(beyond, there):
    config = {**LORA, "alora_invocation_tokens": [there, beyond]}
    with pytest.raises(MethodError, match=f"alora_invocation_tokens`: {beyond} is not a row"):
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


def jamba(folder: Path) -> Path:
    """A base that multiplies with the weight of `dt_proj` instead of calling that layer."""
    config = transformers.JambaConfig(
        vocab_size=80, hidden_size=32, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, intermediate_size=48, attn_layer_offset=1, attn_layer_period=2,
        num_experts=1, num_experts_per_tok=1, mamba_dt_rank=4, mamba_d_state=4,
        use_mamba_kernels=False, pad_token_id=0, initializer_range=0.2,
    )  # fmt: skip
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    save_tokenizer(folder, "llama")
    return folder


def test_a_layer_that_is_not_called_is_refused_and_not_merged(tmp_path):
    base = jamba(tmp_path / "base")
    for method in (
        pk.LoRA(target_modules=("dt_proj", "q_proj")),
        pk.PeftMethod(config={"peft_type": "LOHA", "target_modules": ["dt_proj", "q_proj"]}),
    ):
        model = AutoModelForCausalLM.from_pretrained(base)
        with pytest.raises(
            MethodError, match=r"layers\.0\.mamba\.dt_proj` without calling the layer"
        ):
            method.inject(model, ENCODED, ())
    injected = peft.get_peft_model(
        AutoModelForCausalLM.from_pretrained(base),
        peft.LoraConfig(task_type="CAUSAL_LM", target_modules=["dt_proj", "q_proj"]),
    )
    for name, parameter in injected.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    injected.save_pretrained(tmp_path / "adapter")
    pk.load(str(tmp_path / "adapter"), str(base))
    with pytest.raises(MethodError, match="has no effect, and would have one"):
        merge(str(tmp_path / "adapter"), str(base))


def test_a_merge_that_differs_does_not_accuse_the_base(saved, chat_base):
    folder = saved()
    adapter = pk.load(str(folder), str(chat_base))
    wrong = take_probes(adapter.load_base(), 80, (), 1e-5)
    with pytest.raises(AdapterError) as caught:
        compare_probes(adapter.model, wrong, 1e-5, MERGED)
    assert "the merged model answers differently from the adapter" in caught.value.message
    assert "of the training" not in caught.value.hint
